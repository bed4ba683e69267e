"""A process that trains on the CPU keeps the memory that its steps free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Page faults of a thousand allocations of a megabyte after the first few.
STEPS = """
import resource
import torch
from pipelines.runs.devices import prepare_cpu

prepare_cpu(2)
assert torch.get_num_threads() == 2
step = lambda: sum(float(torch.ones(1 << 18)[0]) for _ in range(100))
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(root: Path, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_what_a_step_frees_the_next_one_takes_again_unless_the_environment_says_otherwise(root: Path) -> None:
    assert faults(root, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 100_000
    assert faults(root) < 10_000
