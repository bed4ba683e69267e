"""No growth: the target model from random initial weights, the baseline of every growth table.

Paper: the "scratch" rows of arXiv 2405.15319. Its FLOPs are the budget the grown models are matched to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipelines.growth.protocol import GrowsNothing

if TYPE_CHECKING:
    from pipelines.growth.protocol import Axis


@dataclass(frozen=True)
class Scratch(GrowsNothing):
    """Start from the seed's initial weights."""

    requires: ClassVar[tuple[str, ...]] = ()
    axis: ClassVar[Axis] = "none"
    refusal: ClassVar[str] = "method scratch grows nothing: leave --base and --input out, or choose another method"
