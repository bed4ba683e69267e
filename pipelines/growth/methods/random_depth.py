"""Masked blocks: new layers with random weights whose residual branches are let in over a ramp (G_random, depthwise).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_random in depth (eq 34-36), after masked structural growth (MSG,
arXiv 2305.02869). The branches of a new block are multiplied by s, which goes from 0 to 1 linearly over ``ramp_iters``
optimiser steps: at growth the function is exactly the base's, during the ramp it is not, and after it the mask is gone
(the multiplication is of the output projections' rows, so nothing is left to strip). New weights are drawn as in a
model trained from scratch, from the seed and their names. ``growth grow`` writes the model at s = 0.

Gradients of the base's own layers are the base's; of the new blocks ``grow_moments`` knows nothing and gives zeros.

Deviations: the released script places new blocks by a list of its own; here each follows a layer of the base, or stands
as ``stacking_list`` says (the first entry of a layer is the base's own, every other a new block).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.growth.depth import (
    OUTPUT_PROJECTIONS,
    copy_layers,
    copy_own_layers,
    inserted_layers,
    insertion_facts,
    layer_of,
    layers_between,
)
from pipelines.growth.drawing import generator_of, initial_std, normal
from pipelines.growth.protocol import Preservation
from pipelines.growth.ramp import check_ramp_iters, length_of_ramp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class RandomDepth:
    """Insert random layers and let them in gradually.

    Attributes:
        growth_factor: layers of the grown model for each of the base's.
        stacking_list: base layer of every grown layer; given, it takes the place of growth_factor.
        ramp_iters: optimiser steps from s = 0 to s = 1; default: a tenth of the training, as the released code's 5000
            steps are of the paper's runs.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "depth"

    growth_factor: int = 4
    stacking_list: tuple[int, ...] | None = None
    ramp_iters: int | None = None

    def __post_init__(self) -> None:
        check_ramp_iters(self.ramp_iters)

    def layers(self, base: ModelSpec) -> list[int]:
        """For every layer of the grown model the layer of the base that it is, or follows."""
        return layers_between(base, self.growth_factor, self.stacking_list)

    def target(self, base: ModelSpec) -> ModelSpec:
        return base.model_copy(update={"num_layers": len(self.layers(base))})

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return base

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        layers, grown = self.layers(base), self.target(base)
        inserted = set(inserted_layers(layers, base.num_layers))
        for name, tensor in copy_layers(tensors, layers):
            if layer_of(name) in inserted:
                self._draw(name, tensor, grown, seed)
            yield name, tensor

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        return copy_own_layers(tensors, self.layers(base), base.num_layers)

    def masks(
        self, base: ModelSpec, parameters: Mapping[str, Tensor], iteration: int, train_iters: int
    ) -> dict[str, Tensor | float]:
        ramp_iters = length_of_ramp(self.ramp_iters, train_iters)
        if iteration >= ramp_iters:
            return {}
        inserted = set(inserted_layers(self.layers(base), base.num_layers))
        masked = (name for name in parameters if layer_of(name) in inserted and name.endswith(OUTPUT_PROJECTIONS))
        return dict.fromkeys(masked, iteration / ramp_iters)

    def preserves(self, base: ModelSpec) -> Preservation:
        if inserted_layers(self.layers(base), base.num_layers) and self.ramp_iters == 0:
            return Preservation("none", "without a ramp (method.ramp_iters is 0) random layers act at once")
        return Preservation("exact_if", "at growth, where the new blocks' mask is 0; not during the ramp", 0.0)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        return {**insertion_facts(self.layers(base), base.num_layers), "ramp_iters": self.ramp_iters}

    def _draw(self, name: str, tensor: Tensor, grown: ModelSpec, seed: int) -> None:
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            tensor.copy_(normal(tensor.shape, initial_std(grown, name), generator_of(seed, name)))
