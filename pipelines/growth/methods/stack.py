"""Depthwise stacking: the trained base model copied g times on top of itself (G_stack).

Paper: Stacking Your Transformers (arXiv 2405.15319), algorithm 1: layer i of the grown model is a copy of layer
i mod l of the base, i = 0 .. g*l - 1; embedding, final norm and output layer are copied once. It does not
preserve the function: the loss jumps at growth and recovers.

Gradients of the grown model are no function of the base's; ``grow_moments`` copies each layer's moments with it.

Deviations: none. ``stacking_list`` generalises it to the paper's ablations (interpolation, partial stacking).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.growth.depth import check_stacking_list, connection_rate, copy_layers
from pipelines.growth.protocol import Preservation
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class Stack:
    """Copy the base's layers g times, or by a list.

    Attributes:
        growth_factor: copies of the base (g); the paper advises 4, and finds 2 to 4 best.
        stacking_list: base layer of every grown layer; given, it takes the place of growth_factor.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "depth"

    growth_factor: int = 4
    stacking_list: tuple[int, ...] | None = None

    def layers(self, base: ModelSpec) -> list[int]:
        """Base layer of every layer of the grown model."""
        if self.stacking_list is None:
            if self.growth_factor < 1:
                raise RetraceError(f"method.growth_factor must be at least 1, got {self.growth_factor}")
            return list(range(base.num_layers)) * self.growth_factor
        check_stacking_list(self.stacking_list, base.num_layers)
        return list(self.stacking_list)

    def target(self, base: ModelSpec) -> ModelSpec:
        return base.model_copy(update={"num_layers": len(self.layers(base))})

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return base

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        return copy_layers(tensors, self.layers(base))

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        return copy_layers(tensors, self.layers(base))

    def preserves(self, base: ModelSpec) -> Preservation:
        if self.layers(base) == list(range(base.num_layers)):
            return Preservation("exact", bound=0.0)
        return Preservation("none", "the layers act on states that they were not trained on")

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        layers = self.layers(base)
        return {
            "stacking_list": layers,
            "connection_rate": round(connection_rate(layers), 2),
        }
