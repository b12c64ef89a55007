"""What a forward pass frees serves the next one: counted in page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PASSES = """
import resource
import torch
from search.evaluators.allocator import keep_freed_memory
def forward():
    x = torch.ones(3000, 96)
    for _ in range(4):
        x = (x @ torch.ones(96, 384)) @ torch.ones(384, 96) * 1e-4
def faults():
    for _ in range(4):
        forward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        forward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
left = faults()
keep_freed_memory()
print(left, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_activations_are_not_mapped_anew_for_every_pass() -> None:
    # else the C library may have learnt by then, from what was freed before, not to map such memory anew
    fixed = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    process = [sys.executable, "-c", PASSES]
    said = subprocess.run(process, env=os.environ | fixed, check=True, capture_output=True, text=True).stdout
    left, kept = map(int, said.split())
    assert kept * 5 < left
