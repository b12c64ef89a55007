"""What `mergefleet plan` knows and prints: sizes, memory, time, and what is done to each kind of tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from cluster import costs
from cluster.output import human_bytes, human_seconds, print_facts, print_table
from engine.execution.execute import Work
from engine.planning.options import default_memory
from engine.planning.plan import OutputTensor, Plan
from engine.planning.stage_plans import PlannedStage

_RATES = {"disk": "disk_gbps", "network": "net_gbps"}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_ROWS_SHOWN = 30


def facts(part: PlannedStage, *, threads: int) -> dict[str, Any]:
    """A plan in numbers, JSON-able. Times hold for files in the page cache; disks and networks add theirs."""
    plan, work = part.plan, Work(threads=threads)
    seconds = costs.cpu_seconds(plan)
    return {
        "stage": part.stage.name,
        "state": _state(part),
        "digest": plan.digest,
        "method": plan.method.name,
        "exact": plan.method.exact,
        "arithmetic": " and ".join(sorted({_arithmetic(plan, tensor) for tensor in plan.tensors})),
        "sources": [str(ref) for ref in plan.sources],
        "tensors": len(plan.tensors),
        "tensors_copied": sum(tensor.call is None for tensor in plan.tensors),
        "parameters": sum(tensor.elements for tensor in plan.tensors),
        "dtypes": dict(Counter(tensor.dtype for tensor in plan.tensors)),
        "groups": _groups(plan, work.thread_count),
        "files": [file.name for file in plan.files],
        "tiles": len(plan.tiles),
        "passes": 1 + max((passes.at_most for passes in plan.passes), default=0),
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "threads": work.thread_count,
        "least_memory_bytes": plan.peak_bytes(work.thread_count),
        "default_memory_bytes": default_memory(),
        "estimated_cpu_seconds": round(seconds, 2),
        "estimated_seconds": round(seconds / work.thread_count, 2),
        "left_out": {model: list(names) for model, names in plan.left_out.items()},
        "warnings": list(plan.warnings),
    }


def print_plan(values: dict[str, Any]) -> None:
    """The same for people."""
    title = f"stage {values['stage']}" if values["stage"] else "plan"
    shown = {
        "state": values["state"],
        "method": f"{values['method']} ({values['arithmetic']})",
        "sources": "\n".join(values["sources"]),
        "tensors": f"{values['tensors']}, {values['tensors_copied']} of them copied as they are",
        "parameters": f"{values['parameters']:,}",
        "dtypes": ", ".join(f"{count} {dtype}" for dtype, count in values["dtypes"].items()),
        "reads": human_bytes(values["bytes_read"])
        + f", {values['passes']} passes where a tensor does not fit in memory",
        "writes": human_bytes(values["bytes_written"]) + f" in {len(values['files'])} files",
        "tiles": values["tiles"],
        "memory": f"at least {human_bytes(values['least_memory_bytes'])} for {values['threads']} threads",
        "time": f"about {human_seconds(values['estimated_seconds'])} on {values['threads']} threads, data in memory",
    }
    for model, names in values["left_out"].items():
        shown[f"left out of {model}"] = f"{len(names)} tensors: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
    for number, warning in enumerate(values["warnings"]):
        shown[f"warning {number + 1}"] = warning
    for finding in values.get("nonfinite", []):
        shown[f"NaN or Inf in {finding['source']}"] = f"{finding['tensor']}: {finding['count']}"
    if "nonfinite" in values and not values["nonfinite"]:
        shown["NaN or Inf"] = "none"
    if values.get("obstacles"):
        shown["would be refused"] = "\n".join(values["obstacles"])
    shown["digest"] = values["digest"]
    print_facts(title, shown)
    if "fleet" in values:
        _print_fleet(values["fleet"])
    _print_groups(values["groups"])


def _print_fleet(fleet: dict[str, Any]) -> None:
    """What `cluster.forecast` foresees."""
    held = fleet["in_flight_bytes_per_node"]
    spent = [f"{name} {human_seconds(value)}" for name, value in fleet["seconds_by_resource"].items() if value]
    cut = fleet["tensors_cut"]
    rates = [f"{name} {fleet[key]:g} Gbit/s" for name, key in _RATES.items() if fleet[key] is not None]
    shown = {
        "nodes": f"{fleet['nodes']}, each with {fleet['cpus_per_node']} processors" + "".join(f", {r}" for r in rates),
        "time": f"about {human_seconds(fleet['estimated_seconds'])}, bound by {fleet['bottleneck']}",
        "the slowest node": ", ".join(spent),
        "before and after": f"{human_seconds(fleet['seconds_before'])} to start and plan, "
        f"{human_seconds(fleet['seconds_after'])} to publish",
        "bytes per node": f"{human_bytes(fleet['bytes_read_per_node'])} read, "
        f"{human_bytes(fleet['bytes_written_per_node'])} written",
        "memory per node": f"{human_bytes(held)} of {human_bytes(fleet['memory_bytes'])} in flight, and "
        f"{human_bytes(fleet['process_bytes_per_node'])} for the process and its plan",
        "balance": f"the busiest node has {fleet['imbalance'] - 1:.1%} more than the mean",
        "cut across nodes": f"{len(cut)} tensors: {', '.join(cut[:4])}{' …' if len(cut) > 4 else ''}"
        if cut
        else "none",
        "assuming": "\n".join(fleet["assumptions"]),
    }
    print_facts("on many nodes", shown)


def _print_groups(groups: Sequence[dict[str, Any]]) -> None:
    rows = [
        (
            group["tensors"],
            str(group["count"]),
            group["dtype"],
            f"{group['does']} ({group['arithmetic']})",
            human_bytes(group["bytes_read"]),
            human_bytes(group["bytes_written"]),
            human_bytes(group["peak_bytes"]),
        )
        for group in groups[:_ROWS_SHOWN]
    ]
    print_table(("tensors", "", "dtype", "what is done", "reads", "writes", "memory"), rows)
    if len(groups) > _ROWS_SHOWN:
        print(f"… and {len(groups) - _ROWS_SHOWN} more kinds of tensors; --json shows all.")


def _state(part: PlannedStage) -> str:
    if part.current:
        return "made already"
    return "to be made" if part.there is None else "to be made again: its recipe or a source of it changed"


def _groups(plan: Plan, threads: int) -> list[dict[str, Any]]:
    """Tensors that differ in layer or expert only, and what is done to them."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, tensor in enumerate(plan.tensors):
        kind = (_NUMBER.sub("*", tensor.name), tensor.dtype, _arithmetic(plan, tensor))
        groups.setdefault(kind, []).append(index)
    made = []
    for (name, dtype, arithmetic), indices in groups.items():
        tensors = [plan.tensors[index] for index in indices]
        made.append(
            {
                "tensors": name,
                "count": len(tensors),
                "dtype": dtype,
                "does": _does(plan, tensors),
                "arithmetic": arithmetic,
                "bytes_read": sum(tensor.bytes_read for tensor in tensors),
                "bytes_written": sum(tensor.nbytes for tensor in tensors),
                "peak_bytes": plan.peak_bytes(threads, indices),
            }
        )
    return made


def _does(plan: Plan, tensors: Sequence[OutputTensor]) -> str:
    """`ties of 3: weight 0.5, 0.2…0.9; density 0.5`: settings that are no defaults, from least to greatest."""
    calls = [tensor.call for tensor in tensors if tensor.call is not None]
    models = dict.fromkeys(str(plan.sources[view.source]) for tensor in tensors for view in tensor.inputs)
    if not calls:
        stored = {view.stored for tensor in tensors for view in tensor.inputs}
        rounded = "" if stored == {tensors[0].dtype} else f", rounded to {tensors[0].dtype}"
        return f"copy of {', '.join(models)}{rounded}"
    said = []
    for name in calls[0].sources:
        columns = zip(*(call.sources[name] for call in calls), strict=False)
        values = [_range(column) for column in columns]
        said.append(f"{name} {', '.join(values if len(set(values)) > 1 else values[:1])}")
    for name in calls[0].options:
        chosen, default = {call.options[name] for call in calls}, plan.method.parameters[name].default
        if chosen != {default}:
            said.append(f"{name} {bool(min(chosen))}" if isinstance(default, bool) else f"{name} {_range(chosen)}")
    return f"{plan.method.name} of {len(models)}" + (f": {'; '.join(said)}" if said else "")


def _range(values: Iterable[float]) -> str:
    low, high = min(values := list(values)), max(values)
    return f"{low:g}" if low == high else f"{low:g}…{high:g}"


def _arithmetic(plan: Plan, tensor: OutputTensor) -> str:
    if tensor.call is None:
        return "copied"
    if plan.has_kernel(tensor):
        return "kernel"
    return "torch, float64" if tensor.wide or tensor.dtype == "F64" else "torch"
