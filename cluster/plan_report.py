"""What `mergefleet plan` prints: sizes, memory, tiles, what each method will do, and an estimate of the time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.output import human_bytes, human_seconds, print_facts
from engine.execute import Work
from engine.options import default_memory
from engine.plan import OutputTensor, Plan

_NS_PER_BYTE = {"read": 0.12, "write": 0.45}
"""Moving bytes between page cache and buffers, digest included; one core, measured (docs/performance.md)."""
_NS_PER_ELEMENT = {
    "linear": 0.1,
    "passthrough": 0.1,
    "slerp": 0.5,
    "task_arithmetic": 0.2,
    "ties": 3.0,
    "dare_linear": 1.8,
    "dare_ties": 2.2,
    "nearswap": 0.2,
    "ram": 0.3,
    "ramplus_tl": 0.6,
    "arcee_fusion": 50.0,
}
"""Arithmetic of all passes per element of each source, one core, measured with kernels."""


def facts(plan: Plan, *, threads: int) -> dict[str, Any]:
    """The plan in numbers, JSON-able. Times hold for files in the page cache; disks and networks add theirs."""
    work = Work(threads=threads)
    return {
        "digest": plan.digest,
        "method": plan.method.name,
        "exact": plan.method.exact,
        "arithmetic": _arithmetic(plan),
        "sources": [str(ref) for ref in plan.sources],
        "tensors": len(plan.tensors),
        "tensors_copied": sum(tensor.call is None for tensor in plan.tensors),
        "parameters": sum(tensor.elements for tensor in plan.tensors),
        "dtypes": dict(Counter(tensor.dtype for tensor in plan.tensors)),
        "files": [file.name for file in plan.files],
        "tiles": len(plan.tiles),
        "passes": max((_passes(plan, tensor) for tensor in plan.tensors), default=1),
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "threads": work.thread_count,
        "least_memory_bytes": plan.peak_bytes(work.thread_count),
        "default_memory_bytes": default_memory(),
        "estimated_cpu_seconds": round(_cpu_seconds(plan), 2),
        "estimated_seconds": round(_cpu_seconds(plan) / work.thread_count, 2),
        "left_out": {model: list(names) for model, names in plan.left_out.items()},
        "warnings": list(plan.warnings),
    }


def print_plan(values: dict[str, Any]) -> None:
    """The same for people."""
    shown = {
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
    shown["digest"] = values["digest"]
    print_facts("plan", shown)


def _arithmetic(plan: Plan) -> str:
    if all(tensor.call is None for tensor in plan.tensors):
        return "bytes are copied"
    wide = any(tensor.call and (tensor.wide or tensor.dtype == "F64") for tensor in plan.tensors)
    return "torch, float64" if wide else "kernels" if plan.method.kernel else "torch"


def _passes(plan: Plan, tensor: OutputTensor) -> int:
    stages = plan.method.stages(tensor.call) if tensor.call else ()
    return 1 + sum(stage.measure is not None for stage in stages)


def _cpu_seconds(plan: Plan) -> float:
    moving = plan.bytes_read * _NS_PER_BYTE["read"] + plan.bytes_written * _NS_PER_BYTE["write"]
    arithmetic = sum(
        tensor.elements * len(tensor.inputs) * _NS_PER_ELEMENT.get(plan.method.name, 20.0)
        for tensor in plan.tensors
        if tensor.call is not None
    )
    return 0.5 + (moving + arithmetic) / 1e9
