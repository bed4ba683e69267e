"""What a link of the chain adds to the model of text: bits a byte of the row it starts from, less its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The gain; None where either has no bits a byte."""
    before, after = other.metrics.get("val_bits_per_byte"), run.metrics.get("val_bits_per_byte")
    return None if before is None or after is None else before - after
