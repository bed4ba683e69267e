"""The torch device of a job, and the CPU made ready for it. Imports torch only when asked for one."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from pipelines.runs.errors import RetraceError


def choose_device(name: str) -> Any:
    """The torch device that ``--exec`` asks for; ``auto`` is the GPU where there is one.

    Raises:
        RetraceError: another name, or cuda where torch finds no GPU.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise RetraceError(f"--exec device is {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise RetraceError("--exec device is cuda and torch finds no GPU: choose auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


# Of mallopt(3): variable -> parameter and bytes. The second is the largest that glibc takes.
HEAP = {"MALLOC_TRIM_THRESHOLD_": (-1, 1 << 28), "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 25)}


def prepare_cpu(threads: int) -> None:
    """Set a process up to train on the CPU: its threads, and a heap that keeps what a step frees for the next one.

    glibc would map every larger tensor anew, and the system would zero its pages again, step for step: a fourteenth
    of a small model's time and more (LOG.md). Numbers stay the same, bit for bit. Who sets
    ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_`` decides, and other C libraries do as they do.
    """
    import torch

    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for variable, (parameter, size) in HEAP.items():
        if mallopt is not None and variable not in os.environ:
            mallopt(parameter, size)
