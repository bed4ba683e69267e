"""Derived columns: one file each, a function of a run and of the run it is compared with, same seed.

``column(run, other, window) -> float | None``: ``other`` is the table's reference row or the row this one starts
from, as the metric's ``needs`` says; ``window`` is the smoothing window in logged points; None is undefined.
They are imported here by name, not found, because the code digest of a table follows imports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.tables.derived import (
    average_acc_gain,
    bits_per_byte_change,
    bits_per_byte_gain,
    flops_saved,
    speedup,
    speedup_double_window,
    speedup_half_window,
    val_flops_saved,
    val_speedup,
)

DERIVED: dict[str, Callable[[Any, Any, int], float | None]] = {
    "average_acc_gain": average_acc_gain.column,
    "bits_per_byte_change": bits_per_byte_change.column,
    "bits_per_byte_gain": bits_per_byte_gain.column,
    "flops_saved": flops_saved.column,
    "speedup": speedup.column,
    "speedup_double_window": speedup_double_window.column,
    "speedup_half_window": speedup_half_window.column,
    "val_flops_saved": val_flops_saved.column,
    "val_speedup": val_speedup.column,
}
