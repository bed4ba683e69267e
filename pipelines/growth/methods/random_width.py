"""Masked units: new units with random weights whose outputs are let in over a ramp (G_random, widthwise).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_random in width (eqs 20-28), after masked structural growth
(MSG, arXiv 2305.02869). Every new weight is drawn as in a model trained from scratch. What a matrix other than the head
puts out is multiplied by [1, s] on old and new units, the embedding's output too, with s from 0 to 1 linearly in the
optimiser's steps: at growth the function is exactly the base's (gains times sqrt(d / D), epsilon times d / D, as in
``zero_width``), during the ramp it is not, and after it the mask is gone. As in the released code feed-forward units
are let in first, then dimensions of the residual stream, then heads, each in a third of the ramp; ``ramp: together`` is
the paper's one s. ``growth grow`` writes the model at s = 0.

Gradients of old parameters are the base's, those of gains times sqrt(D / d); of new ones ``grow_moments`` gives zeros.

Deviations: the released code multiplies what the norms put out by sqrt(sum of the mask / D) during the ramp and leaves
the gains alone; here the gains carry the factor of s = 0 from the start, as the paper's equation has it. An output
layer that is the embedding is masked with it. Gains of new dimensions are ``new_gain``. The released ramp has as many
steps for each kind of unit as ours, by default, for all three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.depth import OUTPUT_PROJECTIONS
from pipelines.growth.drawing import generator_of, initial_std, normal
from pipelines.growth.padding import Gains, Padding, check_growth_factor, facts_of_padding, wider_experts
from pipelines.growth.protocol import EXACT_BOUND, Preservation
from pipelines.growth.ramp import check_ramp_iters, length_of_ramp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.padding import Fill
    from pipelines.growth.protocol import Axis
    from pipelines.growth.width import Units
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

IN_TURN: tuple[Units, ...] = ("ffn", "residual", "heads")


@dataclass(frozen=True)
class RandomWidth:
    """Add random units and let them in gradually.

    Attributes:
        growth_factor: width of the grown model over the base's, 1.5 for half as wide again.
        ramp: new units are let in ``in_turn`` or ``together``.
        ramp_iters: optimiser steps until all are in; default: a tenth of the training.
        new_gain: gains of the norms for new dimensions.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "width"

    growth_factor: float = 2.0
    ramp: Literal["in_turn", "together"] = "in_turn"
    ramp_iters: int | None = None
    new_gain: float = 1.0

    def __post_init__(self) -> None:
        check_growth_factor(self.growth_factor)
        check_ramp_iters(self.ramp_iters)

    def target(self, base: ModelSpec) -> ModelSpec:
        return Padding(base, self.growth_factor).target(scale_epsilon=True)

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return wider_experts(base, self.growth_factor)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        padding = Padding(base, self.growth_factor)
        gains = Gains(padding.gain_scale, self.new_gain)
        for name in tensors:
            yield name, padding.padded(name, tensors[name], gains, _fill(base, name, seed))

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        return Padding(base, self.growth_factor).moments(tensors, power)

    def masks(
        self, base: ModelSpec, parameters: Mapping[str, Tensor], iteration: int, train_iters: int
    ) -> dict[str, Tensor | float]:
        import torch

        passed = iteration / max(1, length_of_ramp(self.ramp_iters, train_iters))
        if self.ramp_iters == 0 or passed >= 1:
            return {}
        in_turn = self.ramp == "in_turn"
        shares = {units: min(1.0, max(0.0, 3 * passed - i)) if in_turn else passed for i, units in enumerate(IN_TURN)}
        masks: dict[str, Tensor | float] = {}
        for name, parameter in parameters.items():
            written = _written(name)
            if written is None or shares[written] == 1:
                continue
            # Gate and up are two matrices, one after the other; what the embedding writes to is its columns.
            blocks, along = (2 if written == "ffn" else 1), (1 if name.startswith("embedding.") else 0)
            mask = torch.ones(blocks, parameter.shape[along] // blocks)
            mask[:, round(mask.shape[1] / self.growth_factor) :] = shares[written]
            masks[name] = mask.flatten() if along else mask.flatten()[:, None]
        return masks

    def preserves(self, base: ModelSpec) -> Preservation:
        if self.ramp_iters == 0 and self.growth_factor > 1:
            return Preservation("none", "without a ramp (method.ramp_iters is 0) random units act at once")
        return Preservation("exact_if", "at growth, where the new units' mask is 0; not during the ramp", EXACT_BOUND)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        return {**facts_of_padding(base, self.target(base)), "ramp": self.ramp, "ramp_iters": self.ramp_iters}


def _fill(base: ModelSpec, name: str, seed: int) -> Fill:
    generator = generator_of(seed, name)

    def fill(wide: Tensor, rows: int, columns: int, read: Units) -> None:
        wide.copy_(normal(wide.shape, initial_std(base, name), generator))

    return fill


def _written(name: str) -> Units | None:
    """The units that a parameter writes to; None for norms, routers and an output layer of its own."""
    if name.endswith("linear_qkv.weight"):
        return "heads"
    if name.endswith("linear_fc1.weight"):
        return "ffn"
    return "residual" if name.startswith("embedding.") or name.endswith(OUTPUT_PROJECTIONS) else None
