"""Scratch with the restart that growth brings: the control that arXiv 2405.15319 lacks.

Paper: none; a grown model has a fresh optimizer and a second warm-up, and this one has them at the same step without
having grown. What it gains over ``scratch`` is no merit of growth.

The step is that at which the base's FLOPs are spent, so the base is an input for what it has cost; nothing of its
weights or its data is used. Up to that step the schedule is a whole one, as the base's is; no token is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipelines.growth.protocol import GrowsNothing

if TYPE_CHECKING:
    from pipelines.growth.protocol import Axis


@dataclass(frozen=True)
class ScratchRestart(GrowsNothing):
    """Start from the seed's initial weights, and restart optimizer and schedule once."""

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "none"
    refusal: ClassVar[str] = "method scratch_restart grows nothing: choose another method"
