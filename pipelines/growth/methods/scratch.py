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

    from pipelines.megatron.spec import ModelSpec


@dataclass(frozen=True)
class Scratch:
    """Start from the seed's initial weights."""

    requires: ClassVar[tuple[str, ...]] = ()

    def target(self, base: ModelSpec) -> ModelSpec:
        raise RetraceError("method scratch grows nothing: leave --base and --input out, or choose another method")

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        raise RetraceError("method scratch grows nothing: leave --base and --input out, or choose another method")

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        raise RetraceError("method scratch grows nothing: leave --base and --input out, or choose another method")
