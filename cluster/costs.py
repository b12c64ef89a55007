"""What a merge costs a processor: one table of measured figures, and sums over a plan.

One core of a virtual Intel Xeon, kernels cached, files in the page cache, other work beside it. `python -m bench.costs`
measures them anew: the figures for methods are from `python -m bench.costs 0.1B` on 2026-11-26.
"""

from __future__ import annotations

from engine.planning.plan import OutputTensor, Plan

NS_PER_BYTE_READ = 0.19
"""From the page cache into a buffer; a network file system costs about the same again in the kernel."""
NS_PER_BYTE_WRITTEN = 0.50
"""Into the page cache (0.32), digest (0.18)."""
US_PER_BLOCK = 70.0
"""Python for one pass over a block of 2^18 elements. It holds the interpreter's lock: the threads of one worker do it
one after the other."""
US_PER_TENSOR = 130.0
"""Planning an output tensor of three sources, headers included: every worker does it, and the driver."""
US_PER_CHUNK = 700.0
"""A call of a worker and its answer, as the driver sees them: Ray's own 0.7 ms on one machine."""
US_PER_TILE = 20.0
"""A tile in the journal, and a tensor's facts: the driver's."""
US_PER_TENSOR_PUBLISHED = 10.0
"""Digest, index and provenance."""
START_S = 2.0
"""A worker's process: Python, numba, the engine."""
WORKER_BYTES = 110 << 20
"""Anonymous memory, about, of a Ray worker with the engine in it that does nothing."""
PLAN_BYTES_PER_TENSOR = 3600
"""What a worker's plan holds for an output tensor of three sources: headers, views, call, place."""

_NS_PER_ELEMENT = {
    "linear": 0.22,
    "slerp": 0.1,
    "nuslerp": 0.8,
    "multislerp": 0.7,
    "karcher": 0.8,
    "model_stock": 0.8,
    "task_arithmetic": 0.3,
    "ties": 1.5,
    "dare_linear": 1.2,
    "dare_ties": 1.1,
    "della": 5.5,
    "della_linear": 5.3,
    "breadcrumbs": 2.0,
    "breadcrumbs_ties": 1.9,
    "sce": 5.6,
    "nearswap": 0.5,
    "ram": 0.5,
    "ramplus_tl": 0.9,
    "arcee_fusion": 50.0,
    "consensus_ta": 0.5,
    "emr": 1.2,
    "fisher": 0.8,
    "passthrough": 0.4,
}
"""Arithmetic of all passes per element of each source, with kernels. arcee_fusion's and those below are older figures:
`bench.costs` leaves these methods out."""
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
