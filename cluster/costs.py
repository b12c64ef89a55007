"""What a merge costs a processor: one table of measured figures, and sums over a plan.

One core of an Intel Xeon (virtual, 2.x GHz), kernels cached, files in the page cache; docs/huge-models.md says how they
were measured and how to measure them anew (`python -m bench.costs`).
"""

from __future__ import annotations

from engine.plan import OutputTensor, Plan

NS_PER_BYTE_READ = 0.19
"""From the page cache into a buffer; a network file system costs about the same again in the kernel."""
NS_PER_BYTE_WRITTEN = 0.50
"""Into the page cache (0.32), digest (0.18)."""
US_PER_BLOCK = 100.0
"""Python for one pass over a block of 2^18 elements. It holds the interpreter's lock: the threads of one worker do it
one after the other."""
US_PER_TENSOR = 120.0
"""Planning an output tensor of three sources, headers included: every worker does it, and the driver."""
US_PER_CHUNK = 700.0
"""A call of a worker and its answer, as the driver sees them: Ray's own 0.7 ms on one machine."""
US_PER_TILE = 150.0
"""A tile in the journal, and a tensor's facts: the driver's."""
US_PER_TENSOR_PUBLISHED = 30.0
"""Digest, index and provenance."""
START_S = 2.0
"""A worker's process: Python, numba, the engine."""
WORKER_BYTES = 110 << 20
"""Anonymous memory of a worker that does nothing."""
PLAN_BYTES_PER_TENSOR = 3600
"""What a worker's plan holds for an output tensor of three sources: headers, views, call, place."""

_NS_PER_ELEMENT = {
    "linear": 0.1,
    "passthrough": 0.1,
    "slerp": 0.5,
    "task_arithmetic": 0.2,
    "ties": 3.0,
    "dare_linear": 1.8,
    "dare_ties": 2.2,
    "consensus_ta": 0.4,
    "emr": 1.0,
    "fisher": 0.6,
    "nearswap": 0.2,
    "ram": 0.3,
    "ramplus_tl": 0.6,
    "arcee_fusion": 50.0,
}
"""Arithmetic of all passes per element of each source, measured with kernels."""
_NS_PER_DIRECTION = {"tsvm": 0.65, "iso_c": 0.2, "core_space": 0.35}
"""The same of a matrix, divided by its smaller side: what decompositions take grows with it."""
_NS_UNKNOWN = {"kernel": 3.0, "torch": 20.0}


def cpu_seconds(plan: Plan) -> float:
    """Of a merge in one process, all inputs read once."""
    moving = plan.bytes_read * NS_PER_BYTE_READ + plan.bytes_written * NS_PER_BYTE_WRITTEN
    arithmetic = sum(tensor.elements * ns_per_element(plan, tensor) for tensor in plan.tensors)
    return 0.5 + (moving + arithmetic) / 1e9


def ns_per_element(plan: Plan, tensor: OutputTensor) -> float:
    """Arithmetic of all passes per element of an output tensor; nothing where it is copied."""
    if tensor.call is None:
        return 0.0
    name, sources = plan.method.name, len(tensor.inputs)
    if name in _NS_PER_DIRECTION and len(tensor.shape) == 2:
        return sources * _NS_PER_DIRECTION[name] * min(tensor.shape)
    return sources * _NS_PER_ELEMENT.get(name, _NS_UNKNOWN["kernel" if plan.has_kernel(tensor) else "torch"])
