"""No growth: the target model from random initial weights, the baseline of every growth table.

Paper: the "scratch" rows of arXiv 2405.15319. Its FLOPs are the budget the grown models are matched to.
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

GROWS_NOTHING = "method scratch grows nothing: leave --base and --input out, or choose another method"


@dataclass(frozen=True)
class Scratch:
    """Start from the seed's initial weights."""

    requires: ClassVar[tuple[str, ...]] = ()
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
