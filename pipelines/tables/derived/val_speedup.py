"""Speedup on the validation loss, which the paper does not report: F_s / F_G - 1.

Validation losses are means over the same text, so they are compared without smoothing: over the interim text where
both runs were evaluated on it, whose last evaluation is at the end of training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.tables.curves import flops_to_match, validation_loss

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The speedup; None if the run never reaches the reference's final validation loss."""
    flops = flops_to_match(run.lines, other.lines, validation_loss(run.lines, other.lines), 1)
    return None if flops is None else flops[0] / flops[1] - 1
