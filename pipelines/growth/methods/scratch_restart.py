"""Scratch with the restart that growth brings: the control that arXiv 2405.15319 lacks.

Paper: none; a grown model has a fresh optimizer and a second warm-up, and this one has them at the same step without
having grown. What it gains over ``scratch`` is no merit of growth.

The step is that at which the base's FLOPs are spent, so the base is an input for what it has cost; nothing of its
weights or its data is used. Up to that step the schedule is a whole one, as the base's is; no token is read twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis, Preservation
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

GROWS_NOTHING = "method scratch_restart grows nothing: choose another method"


@dataclass(frozen=True)
class ScratchRestart:
    """Start from the seed's initial weights, and restart optimizer and schedule once."""

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "none"

    def target(self, base: ModelSpec) -> ModelSpec:
        raise RetraceError(GROWS_NOTHING)

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        raise RetraceError(GROWS_NOTHING)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        raise RetraceError(GROWS_NOTHING)

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        raise RetraceError(GROWS_NOTHING)

    def preserves(self, base: ModelSpec) -> Preservation:
        raise RetraceError(GROWS_NOTHING)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        raise RetraceError(GROWS_NOTHING)
