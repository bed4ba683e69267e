"""How a run models text beside the run it is compared with: its bits a byte, less the other's; below zero is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The change; None where either has no bits a byte."""
    here, there = run.metrics.get("val_bits_per_byte"), other.metrics.get("val_bits_per_byte")
    return None if here is None or there is None else here - there
