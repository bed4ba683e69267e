"""The torch device of a job. Imports torch only when asked for one."""

from __future__ import annotations

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
