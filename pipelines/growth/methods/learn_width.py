"""Learnt width: every axis of the grown model is a learnt linear image of the base's (G_learn, widthwise; LiGO).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_learn in width (eqs 37-40), after LiGO (arXiv 2303.00980). Each
axis has a map B [wide, narrow], the same in every layer: dimensions of the residual stream, rows of queries, keys and
values, columns of the attention's output, feed-forward units. A matrix W becomes B_out W B_in^T, a vector of gains B g.
The maps start as the identity over random rows, [I; N(0, 1 / wide)]; then they alone are trained on the
language-model loss, the weights are computed once, and the maps are discarded. What that costs, in tokens and FLOPs, is
charged to the grown model.

Gradients of the grown model are no function of the base's; ``grow_moments`` keeps those of old units and gives zeros to
new ones.

Deviations: queries, keys and values, gate and up are taken apart as the definition has it (the released code splits the
fused matrix in thirds that mix heads). Where keys and values are fewer than queries, what reads the heads has a map of
its own, and else the values'. Eq 40 maps the output layer's columns without the transpose that their shape needs.
Steps, batch size and learning rate as in ``learn_depth``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.growth.drawing import generator_of, normal
from pipelines.growth.padding import Gains, Padding, check_growth_factor, facts_of_padding, wider, wider_experts
from pipelines.growth.protocol import Preservation
from pipelines.growth.width import role_of
from pipelines.megatron.huggingface import concatenated, join_qkv, split_qkv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.growth.slices import Shape
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class LearnWidth:
    """Map the base's units to more by learnt matrices.

    Attributes:
        growth_factor: width of the grown model over the base's, 1.5 for half as wide again.
        learn_iters: optimiser steps of the maps.
        learn_batch_size: sequences a step.
        learn_lr: their learning rate.
    """

    requires: ClassVar[tuple[str, ...]] = ("base", "tokens")
    axis: ClassVar[Axis] = "width"

    growth_factor: float = 2.0
    learn_iters: int = 100
    learn_batch_size: int = 8
    learn_lr: float = 1.0e-3

    def __post_init__(self) -> None:
        check_growth_factor(self.growth_factor)

    def target(self, base: ModelSpec) -> ModelSpec:
        return Padding(base, self.growth_factor).target(scale_epsilon=False)

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return wider_experts(base, self.growth_factor)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        return self.images(base, tensors, self.drawn_maps(base, tensors, seed))

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        padding = Padding(base, self.growth_factor)
        for name in tensors:
            yield name, padding.padded(name, tensors[name], Gains(1.0, 0.0))

    def initial_maps(self, base: Shape, names: Iterable[str], seed: int) -> dict[str, Tensor]:
        return self._initial_maps(base.model, base.ffn, seed)

    def mapped(
        self, base: Shape, tensors: Mapping[str, Tensor], maps: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        return self.images(base.model, tensors, maps)

    def drawn_maps(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """The initial maps of a model of these tensors, dense or not."""
        ffn = next(tensors[name].shape[1] for name in tensors if name.endswith("linear_fc2.weight"))
        return self._initial_maps(base, ffn, seed)

    def images(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], maps: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Every given tensor's image under the maps."""
        grown = self.target(base)
        for name in tensors:
            tensor = tensors[name]
            axes = _wiring(base, name)
            if name.endswith("linear_qkv.weight"):
                q, k, v = (
                    _image(piece, maps, *each) for piece, each in zip(split_qkv(tensor, base), axes, strict=True)
                )
                yield name, join_qkv(q, k, v, grown)
            else:
                yield name, concatenated([_image(piece, maps, *axes[0]) for piece in tensor.chunk(len(axes))])

    def map_flops(self, base: Shape, vocab_size: int) -> int:
        from pipelines.megatron.flops import parameter_shapes

        sizes = self._sizes(base.model, base.ffn)
        total = 0
        for name, shape in parameter_shapes(base.model, vocab_size, base.experts).items():
            for rows, columns in _wiring(base.model, name):
                i, wide_i = sizes[columns]
                if len(shape) == 1:
                    total += 4 * wide_i * i
                elif rows is None:
                    total += 4 * shape[0] * i * wide_i
                else:
                    # B_out (W B_in^T); backward to B_out, to W B_in^T, and from there to B_in.
                    o, wide_o = sizes[rows]
                    total += 4 * o * i * wide_i + 6 * wide_o * o * wide_i
        return total

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("none", "maps of units act on states that they were not trained on")

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        return {**facts_of_padding(base, self.target(base)), "learn_iters": self.learn_iters}

    def _sizes(self, base: ModelSpec, ffn: int) -> dict[str, tuple[int, int]]:
        """(narrow, wide) of every axis that has a map."""
        keys = base.num_query_groups * (base.hidden_size // base.num_attention_heads)
        heads = {"query": base.hidden_size, "key": keys, "value": keys, _read(base): base.hidden_size}
        narrow = {"residual": base.hidden_size, **heads, "ffn": ffn}
        return {axis: (size, wider(axis, size, self.growth_factor)) for axis, size in narrow.items()}

    def _initial_maps(self, base: ModelSpec, ffn: int, seed: int) -> dict[str, Tensor]:
        import torch

        maps = {}
        for axis, (narrow, wide) in self._sizes(base, ffn).items():
            new = normal((wide - narrow, narrow), wide**-0.5, generator_of(seed, f"learn_width/{axis}"))
            maps[axis] = torch.cat([torch.eye(narrow), new])
        return maps


def _read(base: ModelSpec) -> str:
    """Which map the columns have that read the heads."""
    return "value" if base.num_query_groups == base.num_attention_heads else "output"


def _wiring(base: ModelSpec, name: str) -> list[tuple[str | None, str]]:
    """(axis of the rows, or None; axis of the columns, or of a vector) of every matrix in a parameter."""
    if name.endswith("linear_qkv.weight"):
        return [("query", "residual"), ("key", "residual"), ("value", "residual")]
    if name.endswith("linear_fc1.weight"):
        return [("ffn", "residual")] * 2
    role = role_of(base, name)
    columns = {None: "residual", "residual": "residual", "ffn": "ffn", "heads": _read(base)}[role.columns]
    return [("residual" if role.rows and role.columns else None, columns)]


def _image(matrix: Tensor, maps: Mapping[str, Tensor], rows: str | None, columns: str) -> Tensor:
    """B_out W B_in^T, or for a vector of gains B g, in the base's dtype."""
    image = matrix @ maps[columns].to(matrix.dtype).T
    return image if rows is None else maps[rows].to(matrix.dtype) @ image
