"""Dense weights: every matrix trained as it is, the baseline of every table and the base of growth.

Paper: the "full-rank" rows of arXiv 2406.02214. No equation.

Deviations: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.megatron.flops import count_parameters

if TYPE_CHECKING:
    from pipelines.megatron.spec import ModelSpec


@dataclass(frozen=True)
class Dense:
    """Train the weights themselves."""

    requires: ClassVar[tuple[str, ...]] = ()
    composes: ClassVar[bool] = False

    def attach(self, model: Any, spec: ModelSpec, seed: int) -> None:
        """Nothing to give."""

    def num_parameters(self, spec: ModelSpec, vocab_size: int) -> int:
        return count_parameters(spec, vocab_size)

    def num_indices(self, spec: ModelSpec) -> int:
        return 0

    def extra_flops_per_step(self, spec: ModelSpec) -> int:
        return 0
