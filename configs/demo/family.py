"""Make a tiny family: `python configs/demo/family.py --out DIR [--second | --small] [--seed N] [--items-only]`.

Writes, under DIR, which may exist:

    models/{base,SKILL,...}/                  model directories that transformers loads
    tasks/SKILL-POOL.jsonl                    items: {"id", "question", "answer"}
    tasks/demo_SKILL_POOL.yaml                one lm-eval task per skill and pool
    scores.json                               model -> skill -> pool -> share of exact answers

`data_files` in the task YAMLs is a bare file name, to be read as *beside the YAML*; lm-eval itself would look in the
working directory, so `load_tasks` below hands it the absolute path.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import yaml
from skills import OTHER_SKILLS, POOLS, SKILLS, Item, make_pools

MAX_ANSWER_TOKENS = 12  # the longest answer has 11 characters (pasts: 10); one more for the end token
Pools = dict[str, dict[str, list[Item]]]  # skill -> pool -> items


def task_config(skill: str, pool: str) -> dict[str, Any]:
    """The lm-eval task of one pool. All skills generate alike, so that one batch can hold requests of all of them."""
    return {
        "task": f"demo_{skill}_{pool}",
        "tag": f"demo_{pool}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{skill}-{pool}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}=",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": MAX_ANSWER_TOKENS, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def load_tasks(names: list[str], folder: Path) -> Any:
    """lm-eval's task dictionary for `names`, from any working directory.

    lm-eval takes whole configurations in place of names; these are the files' with `data_files` made absolute. (An
    override of a registered task is no way out: at top level lm-eval 0.4.13 takes every dictionary for a whole task.)
    """
    from lm_eval.tasks import TaskManager, get_task_dict

    configs = [yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in names]
    for config in configs:
        files = config["dataset_kwargs"]["data_files"]
        config["dataset_kwargs"]["data_files"] = {
            split: str((folder / file).resolve()) for split, file in files.items()
        }
    return get_task_dict(configs, TaskManager(include_defaults=False))


def write_tasks(pools_by_skill: Pools, folder: Path) -> None:
    """JSONL and YAML of every skill and pool."""
    folder.mkdir(parents=True, exist_ok=True)
    for skill, pools in pools_by_skill.items():
        for pool, items in pools.items():
            lines = [json.dumps(dataclasses.asdict(item)) for item in items]
            _write(folder / f"{skill}-{pool}.jsonl", "\n".join(lines) + "\n")
            config = task_config(skill, pool)
            _write(folder / f"{config['task']}.yaml", yaml.safe_dump(config, sort_keys=False))


def write_models(family: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    """One model directory per member, in bfloat16. Comes last: it converts the models themselves."""
    import torch

    for name, model in family.items():
        model.to(torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def score_family(family: dict[str, Any], tokenizer: Any, pools_by_skill: Pools) -> dict[str, Any]:
    """model -> skill -> pool -> share of exact answers, in float32."""
    from training import score

    return {
        name: {
            skill: {pool: round(sum(score(model, tokenizer, items)) / len(items), 4) for pool, items in pools.items()}
            for skill, pools in pools_by_skill.items()
        }
        for name, model in family.items()
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train and write the tiny family of the demo.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write models/, tasks/ and scores.json to")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--small", action="store_true", help="2 layers, hidden 64: for tests that need other families")
    kind.add_argument("--second", action="store_true", help="another architecture (GPT-NeoX) with three other skills")
    parser.add_argument("--seed", type=int, help="of weights and lessons (default: the shipped family's)")
    parser.add_argument("--items-only", action="store_true", help="write tasks/ and train nothing")
    return parser.parse_args()


def main() -> None:
    """Items, then models, then scores."""
    arguments = parse_arguments()
    skills = OTHER_SKILLS if arguments.second else SKILLS
    pools_by_skill = {skill.name: make_pools(skill) for skill in skills}
    write_tasks(pools_by_skill, arguments.out / "tasks")
    print(f"{len(skills)} skills x {POOLS} items written to {arguments.out / 'tasks'}")
    if arguments.items_only:
        return
    from training import FULL, SECOND, SMALL, train_family

    config = SECOND if arguments.second else SMALL if arguments.small else FULL
    if arguments.seed is not None:
        config = dataclasses.replace(config, seed=arguments.seed)
    started = time.perf_counter()
    tokenizer, family = train_family(config)
    print(f"trained in {time.perf_counter() - started:.0f} s")
    asked = ("holdout",) if arguments.small else POOLS  # tests ask for no other
    scored = {skill: {pool: pools[pool] for pool in asked} for skill, pools in pools_by_skill.items()}
    scores = score_family(family, tokenizer, scored)
    _write(arguments.out / "scores.json", json.dumps({"seed": config.seed, "scores": scores}, indent=1) + "\n")
    write_models(family, tokenizer, arguments.out / "models")
    for name, by_skill in scores.items():
        print(f"{name:10}", "  ".join(f"{skill} {pools['holdout']:.3f}" for skill, pools in by_skill.items()))


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
