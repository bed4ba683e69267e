"""Share of the reference's training FLOPs saved on the way to its final validation loss, unsmoothed: 1 - F_G / F_s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.tables.curves import flops_to_match, validation_loss

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The share saved; None if the run never reaches the reference's final validation loss."""
    flops = flops_to_match(run.lines, other.lines, validation_loss(run.lines, other.lines), 1)
    return None if flops is None else 1 - flops[1] / flops[0]
