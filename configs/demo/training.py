"""Training of a tiny family: a character tokenizer, a base (Llama or GPT-NeoX), and one specialist per skill.

A family is a pure function of its `FamilyConfig` on one machine and one number of threads; another CPU gives other
last bits, hence the score bands in tests/demo.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from skills import OTHER_SKILLS, SKILLS, Item, Skill, base_lessons, reserved_texts, specialist_lessons
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
PROMPT_END = "="  # the task YAMLs append it to the question; the answer follows at once
IGNORED = -100  # label of positions that carry no loss


@dataclass(frozen=True)
class Course:
    """One training run: AdamW on a one-cycle schedule (linear warm-up over 10 %, then linear to zero)."""

    steps: int
    learning_rate: float
    batch: int = 128


@dataclass(frozen=True)
class FamilyConfig:
    """Shape and training of a family.

    Args:
        seed: of weights and lessons; the items never depend on it.
        right_share: how often the base sees the right answer of a hard problem. Much lower and specialists have to
            learn from scratch; much higher and the base masters everything, so that nothing is left to win.
        replay_share: the part of a specialist's lessons that repeats the base's.
    """

    architecture: Literal["llama", "gpt_neox"] = "llama"
    skills: tuple[Skill, ...] = SKILLS
    seed: int = 0
    layers: int = 3
    hidden: int = 96
    mlp: int = 192
    heads: int = 4
    init_std: float = 0.02
    base: Course = Course(steps=350, learning_rate=3e-3)
    specialist: Course = Course(steps=120, learning_rate=7e-4)
    right_share: float = 0.25
    replay_share: float = 0.5
    threads: int = 1  # matmul bits can depend on it; at this size a second thread saves little


FULL = FamilyConfig()
SECOND = FamilyConfig(architecture="gpt_neox", skills=OTHER_SKILLS)
# A larger initialisation learns these skills in fewer steps, which is all that matters here.
SMALL = FamilyConfig(
    layers=2, hidden=64, mlp=128, init_std=0.15, base=Course(360, 8e-3, 64), specialist=Course(50, 3e-3, 64)
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character and newline, after the three special ones."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, UNKNOWN, *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def make_config(config: FamilyConfig, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """What transformers needs to know of the shape."""
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "sdpa",
    }
    if config.architecture == "gpt_neox":  # untied, LayerNorm, biases, attention and MLP side by side
        return GPTNeoXConfig(**common, tie_word_embeddings=False)
    return LlamaConfig(**common, tie_word_embeddings=True)


def make_model(config: FamilyConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A freshly initialised model; its weights follow from `config.seed`, not from torch's global state."""
    model = AutoModelForCausalLM.from_config(make_config(config, tokenizer))
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:  # norms stay at one, biases at zero
                parameter.normal_(0.0, config.init_std, generator=generator)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def encode(pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (tokens_BT, labels_BT); only the answer and the end token are labelled."""
    prompts = tokenizer([question + PROMPT_END for question, _ in pairs])["input_ids"]
    answers = [[*answer, tokenizer.eos_token_id] for answer in tokenizer([answer for _, answer in pairs])["input_ids"]]
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens_BT = torch.full((len(pairs), width), tokenizer.pad_token_id)
    labels_BT = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens_BT[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels_BT[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return tokens_BT, labels_BT


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, course: Course, lessons: Iterator[tuple[str, str]]
) -> None:
    """Train in place. Padding is on the right and attention causal, so no mask is needed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=course.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    warm_up = max(1, course.steps // 10)
    model.train()
    for step in range(course.steps):
        rate = min((step + 1) / warm_up, (course.steps - step) / (course.steps - warm_up))
        optimizer.param_groups[0]["lr"] = course.learning_rate * rate
        tokens_BT, labels_BT = encode(list(islice(lessons, course.batch)), tokenizer)
        logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def train_base(config: FamilyConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The base: all skills at beginner's level, in float32."""
    model = make_model(config, tokenizer)
    rng = random.Random(f"{config.seed}/base")
    train(model, tokenizer, config.base, lessons_of_base(config, rng))
    return model


def lessons_of_base(config: FamilyConfig, rng: random.Random) -> Iterator[tuple[str, str]]:
    """What the base sees, and a specialist sees again."""
    reserved = reserved_texts(config.skills)
    return base_lessons(rng, config.skills, right_share=config.right_share, reserved=reserved)


def train_specialist(
    config: FamilyConfig, tokenizer: PreTrainedTokenizerFast, base: PreTrainedModel, skill: Skill
) -> PreTrainedModel:
    """A fine-tune of the base on one skill."""
    model = make_model(config, tokenizer)
    model.load_state_dict(base.state_dict())
    rng = random.Random(f"{config.seed}/{skill.name}")
    lessons = specialist_lessons(
        rng,
        skill,
        replay=lessons_of_base(config, rng),
        replay_share=config.replay_share,
        reserved=reserved_texts(config.skills),
    )
    train(model, tokenizer, config.specialist, lessons)
    return model


def round_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Round the parameters to bfloat16, in place, and nothing else.

    `model.to(torch.bfloat16).float()` would round the rotary frequencies too, which a loaded model has in float32.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model


def train_family(config: FamilyConfig) -> tuple[PreTrainedTokenizerFast, dict[str, PreTrainedModel]]:
    """Tokenizer and the models by name: base, then one per skill; float32 holding the bfloat16 values that ship.

    The specialists start from the rounded base, so that their deltas to the shipped one hold nothing but training.
    """
    torch.set_num_threads(config.threads)
    tokenizer = make_tokenizer()
    base = round_weights(train_base(config, tokenizer))
    specialists = {
        skill.name: round_weights(train_specialist(config, tokenizer, base, skill)) for skill in config.skills
    }
    return tokenizer, {"base": base} | specialists


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, items: list[Item]) -> list[bool]:
    """Exact match of each item under greedy decoding, in one float32 forward pass.

    Greedy decoding gives the answer exactly if, fed with the answer, every next-token argmax is the answer's next
    token; so no token needs to be generated.
    """
    tokens_BT, labels_BT = encode([(item.question, item.answer) for item in items], tokenizer)
    with torch.inference_mode():
        choices_BT = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits.argmax(-1)
    targets_BT = labels_BT[:, 1:]
    return ((choices_BT == targets_BT) | (targets_BT == IGNORED)).all(dim=1).tolist()
