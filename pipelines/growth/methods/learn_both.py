"""Learnt growth along both axes: LiGO's whole map, units and layers together (G_learn in width and depth).

Paper: LiGO (arXiv 2303.00980), which Stacking Your Transformers (arXiv 2405.15319, eqs 37-42) takes apart: layer l of
the grown model is sum_j D_lj B_out W_j B_in^T, with the maps of ``learn_width`` and ``learn_depth`` learnt together.

``grow_moments`` is that of both, and as little exact.

Deviations: as of the two methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.growth.composed import EachGrown
from pipelines.growth.methods.learn_depth import LearnDepth
from pipelines.growth.methods.learn_width import LearnWidth
from pipelines.growth.padding import check_growth_factor
from pipelines.growth.protocol import Preservation
from pipelines.growth.slices import Shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class LearnBoth:
    """Map units and combine layers by learnt coefficients.

    Attributes:
        growth_factor: layers of the grown model for each of the base's.
        width_factor: width of the grown model over the base's.
        learn_iters: optimiser steps of the maps.
        learn_batch_size: sequences a step.
        learn_lr: their learning rate.
    """

    requires: ClassVar[tuple[str, ...]] = ("base", "tokens")
    axis: ClassVar[Axis] = "both"

    growth_factor: int = 2
    width_factor: float = 2.0
    learn_iters: int = 100
    learn_batch_size: int = 8
    learn_lr: float = 1.0e-3

    def __post_init__(self) -> None:
        check_growth_factor(self.growth_factor)
        check_growth_factor(self.width_factor, "width_factor")

    def target(self, base: ModelSpec) -> ModelSpec:
        return self._deeper().target(self._wider().target(base))

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return self._wider().target_experts(base)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        wider = self._wider()
        maps = wider.drawn_maps(base, tensors, seed)
        widened = EachGrown(tensors, lambda one: wider.images(base, one, maps))
        return self._deeper().grow(wider.target(base), widened, seed)

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        wider = self._wider()
        widened = EachGrown(tensors, lambda one: wider.grow_moments(base, one, power, seed))
        return self._deeper().grow_moments(wider.target(base), widened, power, seed)

    def initial_maps(self, base: Shape, names: Iterable[str], seed: int) -> dict[str, Tensor]:
        names = list(names)
        width = self._wider().initial_maps(base, names, seed)
        depth = self._deeper().initial_maps(self._widened(base), names, seed)
        return {f"width/{axis}": each for axis, each in width.items()} | {
            f"depth/{matrix}": each for matrix, each in depth.items()
        }

    def mapped(
        self, base: Shape, tensors: Mapping[str, Tensor], maps: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        width, depth = (
            {name.removeprefix(part): each for name, each in maps.items() if name.startswith(part)}
            for part in ("width/", "depth/")
        )
        learning = any(each.requires_grad for each in maps.values())
        widened = EachGrown(tensors, lambda one: self._wider().images(base.model, one, width), keep=learning)
        return self._deeper().mapped(self._widened(base), widened, depth)

    def map_flops(self, base: Shape, vocab_size: int) -> int:
        width = self._wider().map_flops(base, vocab_size)
        # The backward pass goes through the layers' combination to what it combines, too.
        return width + 3 * self._deeper().map_flops(self._widened(base), vocab_size) // 2

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("none", "maps of units and combinations of layers act on states they were not trained on")

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        wider = self._wider()
        return {**wider.facts(base), **self._deeper().facts(wider.target(base))}

    def _widened(self, base: Shape) -> Shape:
        wider = self._wider()
        return Shape(wider.target(base.model), base.experts and wider.target_experts(base.experts))

    def _deeper(self) -> LearnDepth:
        return LearnDepth(self.growth_factor, learn_iters=self.learn_iters)

    def _wider(self) -> LearnWidth:
        return LearnWidth(self.width_factor, learn_iters=self.learn_iters)
