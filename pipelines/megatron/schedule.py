"""Where a run stands in its learning-rate schedule: from the start, part of the way in, or started anew on the way.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.megatron.spec import TrainingSpec


@dataclass(frozen=True)
class Schedule:
    """The schedule of a run, as one or more whole schedules in a row.

    Attributes:
        parts: schedules, one after another; optimizer state starts anew with each but the first.
        offset: steps of the first part that are over before the run's first step.
        rewarm_iters: over the run's first steps the learning rate is scaled by step / rewarm_iters.
    """

    parts: tuple[TrainingSpec, ...]
    offset: int = 0
    rewarm_iters: int = 0

    @property
    def train_iters(self) -> int:
        """Steps of the run."""
        return sum(part.train_iters for part in self.parts) - self.offset

    def place(self, step: int) -> tuple[int, int]:
        """(part, step of that part) of the run's step; both steps count from 1, and step 0 is the moment before."""
        place = step + self.offset
        for number, part in enumerate(self.parts[:-1]):
            if place <= part.train_iters:
                return number, place
            place -= part.train_iters
        return len(self.parts) - 1, place

    def restarts(self, step: int) -> bool:
        """Whether the run's step (from 1) is the first of a later part."""
        part, place = self.place(step)
        return part > 0 and place == 1

    def rewarmed(self, step: int) -> float:
        """Factor on the learning rate of the run's step."""
        return min(1.0, step / self.rewarm_iters) if self.rewarm_iters else 1.0
