"""Speedup with half the smoothing window: what the choice of a window, which the paper does not state, is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.tables.derived import speedup

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The speedup of a run over the reference; None if it never reaches the reference's final loss."""
    return speedup.column(run, other, max(1, round(window / 2)))
