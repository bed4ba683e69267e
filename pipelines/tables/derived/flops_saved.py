"""Share of the reference's training FLOPs that a run saves on the way to its final training loss: 1 - F_G / F_s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.tables.curves import flops_to_match

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The share saved; None if the run never reaches the reference's final loss."""
    flops = flops_to_match(run.lines, other.lines, "loss", window)
    return None if flops is None else 1 - flops[1] / flops[0]
