"""`python -m bench.gpu [--family 1.1B] [--methods …]`: what a merge costs with its arithmetic on a GPU.

Each method is merged by its kernels on the processor and by its definition on the GPU, as commands of their own, files
in the page cache. Beside the costs: how many output elements differ, and by how many units in the last place at most
(steps between neighbouring bfloat16 numbers).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import safe_open

from bench import report
from bench.families import Family, benchmark_family
from bench.measure import Cost, measure
from bench.recipes import TIMED, recipe

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_ties", "della", "tsvm")
_COMMAND = (sys.executable, "-c", "from cluster.entry import run; run()")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--family", default="1.1B")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest of so many runs counts")
    options = parser.parse_args()
    family = benchmark_family(options.family)
    heads = ["method", "CPU: CPU-s", "wall s", "GPU: CPU-s", "wall s", "other elements", "largest difference"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    for method in options.methods:
        print("| " + " | ".join(_row(method, family, repeats=options.repeats)) + " |", flush=True)
    command = " ".join(["python -m bench.gpu", *sys.argv[1:]])
    print(f"\n{report.provenance(command)} GPU: {torch.cuda.get_device_name()}, torch {torch.__version__}.")


def _row(method: str, family: Family, *, repeats: int) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(method, family, TIMED)))
        costs = {}
        for device in ("cpu", "cuda"):
            runs = [_merged(folder, device) for _ in range(repeats + 1)]  # the first may compile
            costs[device] = min(runs[1:], key=lambda cost: cost.wall_s)
        differing, elements, steps = _differences(folder / "cpu", folder / "cuda")
    figures = [f"{cost:.1f}" for device in costs.values() for cost in (device.cpu_s, device.wall_s)]
    return [method, *figures, f"{differing / elements:.2g} ({differing})", f"{steps}"]


def _merged(folder: Path, device: str) -> Cost:
    shutil.rmtree(folder / device, ignore_errors=True)
    command = [*_COMMAND, "merge", folder / "recipe.yaml", folder / device, "--device", device]
    return measure(command, log=folder / "log")


def _differences(one: Path, other: Path) -> tuple[int, int, int]:
    """Differing elements, all elements, and the largest distance in steps of bfloat16."""
    differing = elements = steps = 0
    for file in one.glob("*.safetensors"):
        with safe_open(file, "pt") as left, safe_open(other / file.name, "pt") as right:
            for name in left.keys():  # noqa: SIM118 (a file is no mapping)
                rows = [_ordered(side.get_tensor(name)) for side in (left, right)]
                distance = np.abs(rows[0] - rows[1])
                differing += int(np.count_nonzero(distance))
                elements += distance.size
                steps = max(steps, int(distance.max(initial=0)))
    return differing, elements, steps


def _ordered(values: torch.Tensor) -> np.ndarray:
    """Bits of bfloat16 as whole numbers in the order of their values: neighbours are 1 apart, both zeros are 0."""
    bits = values.flatten().view(torch.int16).numpy().astype(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


if __name__ == "__main__":
    main()
