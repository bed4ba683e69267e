"""How long new parts of a masked growth are let in."""

from __future__ import annotations

from pipelines.runs.errors import RetraceError

SHARE = 0.1
"""Of the training, that a ramp takes by default, as the released code's 5000 steps are of the paper's runs."""


def check_ramp_iters(ramp_iters: int | None) -> None:
    """Refuse a ramp that cannot be.

    Raises:
        RetraceError: names the key.
    """
    if ramp_iters is not None and ramp_iters < 0:
        raise RetraceError(f"method.ramp_iters must be at least 0, got {ramp_iters}")


def length_of_ramp(ramp_iters: int | None, train_iters: int) -> int:
    """Steps of the ramp in a training of ``train_iters`` steps."""
    return ramp_iters if ramp_iters is not None else max(1, round(SHARE * train_iters))
