"""Speedup: how many times over the reference could have been trained to its final training loss, less one.

F_s / F_G - 1 of arXiv 2405.15319, eq. 48, with the base model's FLOPs in F_G; negative when growth is slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.tables.curves import flops_to_match

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The speedup of a run over the reference; None if it never reaches the reference's final loss."""
    flops = flops_to_match(run.lines, other.lines, "loss", window)
    return None if flops is None else flops[0] / flops[1] - 1
