"""What must not change between a run and its continuation, and how an error says what did: the keys that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.errors import CampaignError, InputsChanged
from engine.recipes.keypath import shown
from search.campaign_file import campaign_to_dict, parse_campaign
from search.evaluators.entries import JUDGE_FREE, JUDGE_ONCE_COUNTED
from search.store.store import CampaignFacts
from search.store.transaction import Row

NAMED = 5
"""Keys that a message names; a file with more of them is another file."""


def changes(found: Row, facts: CampaignFacts, *, free: frozenset[str]) -> list[str]:
    """Where campaign, evaluator or items are not the stored run's, one text each; `free` keys may differ.

    Where a judge is asked may differ, too; it is named beside another evaluation key, which it was a part of once.
    """
    without = JUDGE_FREE if found["eval_key"] == facts.eval_key else JUDGE_FREE - JUDGE_ONCE_COUNTED
    earlier, present = _comparable(_present(found["config"]), without), _comparable(facts.config, without)
    told = [
        f"{key}: {_short(before)} then, {_short(now)} now"
        for name in sorted({*earlier, *present} - free)
        for key, before, now in _differences(name, earlier.get(name), present.get(name))
    ]
    if found["eval_key"] != facts.eval_key:
        told.append("the evaluation key (task files, evaluator settings, versions, config or tokenizer of a model)")
    if found["items_digest"] != facts.items_digest:
        told.append("the items of the tasks")
    if found["layers"] != facts.layers:
        told.append(f"the models' layers: {found['layers']} then, {facts.layers} now")
    return told


def refuse_changes(found: Row, facts: CampaignFacts, *, free: frozenset[str]) -> None:
    """Raise InputsChanged where there are `changes`."""
    changed = changes(found, facts, free=free)
    if not changed:
        return
    why = ""
    if any(text.startswith("budget") for text in changed):  # it is free until then
        why = " The holdout was opened, and a longer search would be chosen by who knows its result."
    raise InputsChanged(
        f"campaign {facts.name!r} cannot be resumed, these inputs changed: {named(changed)}.{why} "
        "Restore them, or start a campaign of another name.",
        changed=changed,
    )


def named(changed: Sequence[str]) -> str:
    """The first of the `changes`, and how many more there are."""
    rest = f"; and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return "; ".join(changed[:NAMED]) + rest


def _comparable(config: Row, without: frozenset[str]) -> Row:
    """Without these keys of judges."""
    if not any(isinstance(task, Mapping) and task.get("judge") for task in config.get("tasks", ())):
        return config
    return {**config, "tasks": [_task_without(task, without) for task in config["tasks"]]}


def _task_without(task: Row, without: frozenset[str]) -> Row:
    judge = task.get("judge")
    return {**task, "judge": {key: judge[key] for key in judge if key not in without}} if judge else task


def _differences(key: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, then, now) of the innermost parts that differ."""
    if then == now:
        return
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in sorted({*then, *now}, key=str):
            yield from _differences(f"{key}.{name}", then.get(name), now.get(name))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, pair in enumerate(zip(then, now, strict=True)):
            yield from _differences(f"{key}[{index}]", *pair)
    else:
        yield key, then, now


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, Mapping | list) else shown(value)


def _present(config: Row) -> Row:
    """A stored campaign as this version writes it down: keys that did not exist then have their defaults."""
    try:
        return campaign_to_dict(parse_campaign(config, origin="store"))
    except CampaignError:
        return config
