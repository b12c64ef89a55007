"""Two tiny random models with one tokenizer, and lm-eval tasks over them whose right answers an oracle made.

The oracle decodes one prompt at a time, without a cache and without padding. Even items have model A's own answer as
the right one, odd items a fixed wrong string, so that A and B score differently and neither scores 0 or 1.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from search.evaluators.contract import Scorer, Subject
from search.evaluators.entries import TaskEntry

ANSWER_TOKENS = 4  # max_gen_toks below
CHOICES = ["ab", "c", "dcba"]
SIZES = {"search": 12, "selection": 6, "holdout": 8}

TASK_YAML = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: data/{name}.jsonl}}}}
test_split: test
"""
SPELL_YAML = """
output_type: generate_until
doc_to_text: "{{question}}="
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
PICK_YAML = """
output_type: multiple_choice
doc_to_text: "{{question}}="
doc_to_target: gold
doc_to_choice: choices
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: f1, higher_is_better: true}
"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    characters = ["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz=\n "]
    core = Tokenizer(models.WordLevel({token: index for index, token in enumerate(characters)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def make_model(
    seed: int, tokenizer: PreTrainedTokenizerFast, *, layers: int = 2, tied: bool = True
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.6, generator=generator)
    return model


def greedy_answer(subject: Subject, question: str) -> str:
    """Oracle: one prompt, one token at a time, the whole sequence recomputed each time."""
    tokens = subject.tokenizer.encode(question + "=")
    start = len(tokens)
    newline = subject.tokenizer.encode("\n")[0]
    while len(tokens) < start + ANSWER_TOKENS:
        with torch.no_grad():
            best = int(subject.model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
        if best in (subject.tokenizer.eos_token_id, newline):
            break
        tokens.append(best)
    return subject.tokenizer.decode(tokens[start:], skip_special_tokens=True)


def best_choice(subject: Subject, question: str) -> int:
    """Oracle: the choice with the largest summed log-probability."""
    sums = []
    for choice in CHOICES:
        prompt, answer = subject.tokenizer.encode(question + "="), subject.tokenizer.encode(choice)
        with torch.no_grad():
            logits = subject.model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        sums.append(sum(float(logits[p].double().log_softmax(-1)[t]) for p, t in zip(places, answer, strict=True)))
    return max(range(len(CHOICES)), key=lambda index: sums[index])


@dataclass(frozen=True)
class Bench:
    """Folder with task YAMLs, the campaign entries that name them, the rows by item key, and the two models."""

    folder: Path
    entries: tuple[TaskEntry, ...]
    rows: dict[str, dict]
    a: Subject
    b: Subject


def write_tasks(folder: Path, a: Subject) -> dict[str, dict]:
    (folder / "data").mkdir(parents=True)
    rng, rows = random.Random(0), {}
    for split, size in SIZES.items():
        for skill, settings in (("spell", SPELL_YAML), ("pick", PICK_YAML)):
            name, lines = f"{skill}_{split}", []
            for index in range(size):
                question = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 7)))
                row = {"id": f"{index:03d}", "question": question}
                if skill == "spell":
                    row["answer"] = greedy_answer(a, question) if index % 2 == 0 else "zzzzz"
                else:
                    row |= {"choices": CHOICES, "gold": (best_choice(a, question) + index % 2) % len(CHOICES)}
                lines.append(json.dumps(row))
                rows[f"{name}/{row['id']}"] = row
            (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
            (folder / f"{name}.yaml").write_text(TASK_YAML.format(name=name) + settings)
    return rows


def make_bench(folder: Path) -> Bench:
    """Tasks in `folder`, which must not exist or be empty."""
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    a, b = (Subject(make_model(seed, tokenizer), tokenizer) for seed in (1, 2))
    rows = write_tasks(folder, a)
    entries = tuple(
        TaskEntry(name=skill, metric=metric, **{split: f"{skill}_{split}" for split in SIZES})
        for skill, metric in (("spell", "exact_match"), ("pick", "acc"))
    )
    return Bench(folder, entries, rows, a, b)


def oracle_scores(bench: Bench, subject: Subject, keys: Iterable[str]) -> dict[str, float]:
    """What each item scores, decoded one prompt at a time."""
    scores = {}
    for key in keys:
        row = bench.rows[key]
        if key.startswith("spell"):
            scores[key] = float(greedy_answer(subject, row["question"]) == row["answer"])
        else:
            scores[key] = float(best_choice(subject, row["question"]) == row["gold"])
    return scores


def folder_with(
    folder: Path, bench: Bench, name: str, *changes: tuple[str, str], template: str = "spell_search"
) -> str:
    """A task folder that also has the task `name`: a template of the bench with some text replaced."""
    text = (bench.folder / f"{template}.yaml").read_text()
    for old, new in ((f"task: {template}", f"task: {name}"), *changes):
        assert old in text
        text = text.replace(old, new)
    for path in bench.folder.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    (folder / "data").symlink_to(bench.folder / "data")
    (folder / f"{name}.yaml").write_text(text)
    return str(folder)


def keys_of(scorer: Scorer, split: str = "search") -> list[str]:
    return [item.key for item in scorer.items()[split]]
