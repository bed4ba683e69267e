"""What a link of the chain adds on the harness tasks: mean accuracy, less that of the row it starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.tables.cells import Cell


def column(run: Cell, other: Cell, window: int) -> float | None:
    """The gain, a fraction of one; None where either was not evaluated."""
    before, after = other.metrics.get("average_acc"), run.metrics.get("average_acc")
    return None if before is None or after is None else after - before
