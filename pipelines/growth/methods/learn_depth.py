"""Learnt depth: every grown layer is a learnt linear combination of the base's layers (G_learn, depthwise; LiGO).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_learn in depth (eq 41-42), after LiGO (arXiv 2303.00980). Each
type of matrix has coefficients D [L', L], and layer l of the grown model is W'_l = sum_j D_lj W_j. They start as
stacked identities, so that without learning (``learn_iters: 0``) this is ``stack`` to the bit; then they alone are
trained on the language-model loss, the weights are computed once, and the coefficients are discarded. What that costs,
in tokens and FLOPs, is charged to the grown model.

Gradients of the grown model are no function of the base's; ``grow_moments`` copies each layer's moments as ``stack``.

Deviations: queries, keys and values, gate and up are types of their own, as the definition has it (the released code
splits the fused matrix in thirds that mix heads). The paper does not state the steps; 100 are LiGO's. Batch size and
learning rate of the map are ours, as neither is stated: a constant rate, AdamW without decay.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.growth.depth import connection_rate, copy_layers, grown_layers, layer_of, layered
from pipelines.growth.protocol import Preservation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.growth.slices import Shape
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class LearnDepth:
    """Combine the base's layers by learnt coefficients.

    Attributes:
        growth_factor: layers of the grown model for each of the base's.
        stacking_list: base layer that every grown layer starts as; given, it takes the place of growth_factor.
        learn_iters: optimiser steps of the coefficients.
        learn_batch_size: sequences a step.
        learn_lr: their learning rate.
    """

    requires: ClassVar[tuple[str, ...]] = ("base", "tokens")
    axis: ClassVar[Axis] = "depth"

    growth_factor: int = 4
    stacking_list: tuple[int, ...] | None = None
    learn_iters: int = 100
    learn_batch_size: int = 8
    learn_lr: float = 1.0e-3

    def layers(self, base: ModelSpec) -> list[int]:
        """Base layer that every layer of the grown model starts as."""
        return grown_layers(base, self.growth_factor, self.stacking_list)

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

    def initial_maps(self, base: Shape, names: Iterable[str], seed: int) -> dict[str, Tensor]:
        import torch

        identities = torch.eye(base.model.num_layers)[self.layers(base.model)]
        suffixes = [_suffix(name) for name in names if layer_of(name) == 0]
        return {f"{suffix}/{kind}": identities.clone() for suffix in suffixes for kind in _kinds(suffix)}

    def mapped(
        self, base: Shape, tensors: Mapping[str, Tensor], maps: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        for name, source in layered(tensors, [0] * len(self.layers(base.model))):
            layer = layer_of(name)
            if layer is None:
                yield name, tensors[name].clone()
            else:
                yield name, self._combined(base, tensors, maps, layer, _suffix(source))

    def map_flops(self, base: Shape, vocab_size: int) -> int:
        from pipelines.megatron.flops import parameter_shapes

        shapes = parameter_shapes(base.model, 0, base.experts)
        parameters = sum(prod(shape) for name, shape in shapes.items() if layer_of(name) == 0)
        # A multiplication and an addition for each pair of layers, forward and to the coefficients.
        return 4 * len(self.layers(base.model)) * base.model.num_layers * parameters

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("none", "combinations of layers act on states that they were not trained on")

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        layers = self.layers(base)
        return {
            "stacking_list": layers,
            "connection_rate": round(connection_rate(layers), 2),
            "learn_iters": self.learn_iters,
        }

    def _combined(
        self, base: Shape, tensors: Mapping[str, Tensor], maps: Mapping[str, Tensor], layer: int, suffix: str
    ) -> Tensor:
        import torch

        coefficients = torch.stack([maps[f"{suffix}/{kind}"][layer] for kind in _kinds(suffix)])
        total: Tensor | None = None
        for source in range(base.model.num_layers):
            column = coefficients[:, source]
            # Layers without a share are not read, unless the share may be learnt.
            if not column.requires_grad and not column.any():
                continue
            tensor = tensors[f"decoder.layers.{source}.{suffix}"]
            share = column.to(tensor.dtype)
            if len(share) > 1:
                share = share[_kind_of_rows(suffix, base).to(share.device)][:, None]
            total = share * tensor if total is None else total + share * tensor
        if total is None:
            return torch.zeros_like(tensors[f"decoder.layers.0.{suffix}"])
        return total


def _suffix(name: str) -> str:
    return name.split(".", 3)[3]


def _kinds(suffix: str) -> tuple[str, ...]:
    if suffix.endswith("linear_qkv.weight"):
        return ("q", "k", "v")
    return ("gate", "up") if suffix.endswith("linear_fc1.weight") else ("all",)


def _kind_of_rows(suffix: str, base: Shape) -> Tensor:
    """Index into ``_kinds`` of every row of a fused matrix."""
    import torch

    if suffix.endswith("linear_fc1.weight"):
        return torch.arange(2).repeat_interleave(base.ffn)
    groups = base.model.num_query_groups
    heads = torch.tensor([0] * (base.model.num_attention_heads // groups) + [1, 2])
    return heads.repeat(groups).repeat_interleave(base.head_size)
