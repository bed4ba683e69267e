"""What of a grown parameter is new: every matrix by its parts, old and new rows and columns.

Old units come first (the leading slices) in the residual stream, in feed-forward layers and, as whole heads, in
attention; where a query group gets more queries, the old ones are the first of each group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pipelines.megatron.huggingface import EXPERT, LAYER

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


class Part(NamedTuple):
    """A matrix or vector inside a parameter, and which axis of the model its rows and columns are.

    Axes: ``residual`` [H], ``ffn`` [F], ``query`` (whole query heads) and ``key`` (whole key and value heads); None
    for vocabulary and experts. A vector has columns only.
    """

    label: str
    tensor: Tensor
    rows: str | None
    columns: str | None


@dataclass(frozen=True)
class Shape:
    """Sizes of a model whose parameters are taken apart."""

    model: ModelSpec
    experts: ExpertSpec | None = None

    @property
    def head_size(self) -> int:
        """Rows of a head."""
        return self.model.hidden_size // self.model.num_attention_heads

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every kind: residual dimensions, feed-forward units, query heads and query groups."""
        model = self.model
        return model.hidden_size, self.ffn, model.num_attention_heads, model.num_query_groups

    @property
    def ffn(self) -> int:
        """Units of a feed-forward layer, an expert's for a mixture."""
        return self.experts.moe_ffn_hidden_size if self.experts else self.model.ffn_hidden_size


def parts(name: str, tensor: Tensor, shape: Shape) -> Iterator[Part]:
    """Take a parameter apart: query, key and value; gate and up. Views where the layout allows, else copies."""
    match = LAYER.match(name)
    suffix = match[2] if match else name
    label = suffix.removesuffix(".weight")
    if suffix == "self_attention.linear_qkv.weight":
        groups, per_group = (
            shape.model.num_query_groups,
            shape.model.num_attention_heads // shape.model.num_query_groups,
        )
        by_group = tensor.view(groups, per_group + 2, shape.head_size, -1)
        for letter, piece in zip("qkv", by_group.split([per_group, 1, 1], dim=1), strict=True):
            axis = "query" if letter == "q" else "key"
            yield Part(f"self_attention.{letter}", piece.reshape(-1, tensor.shape[-1]), axis, "residual")
    elif suffix == "self_attention.linear_proj.weight":
        yield Part(label, tensor, "residual", "query")
    elif suffix.endswith("linear_fc1.weight"):
        for half, piece in zip(("gate", "up"), tensor.chunk(2), strict=True):
            yield Part(f"{label.removesuffix('linear_fc1')}{half}", piece, "ffn", "residual")
    elif suffix.endswith("linear_fc2.weight"):
        yield Part(label, tensor, "residual", "ffn")
    elif tensor.dim() == 1:
        yield Part(label, tensor, None, "residual" if len(tensor) == shape.model.hidden_size else None)
    else:
        yield Part(label, tensor, None, "residual" if tensor.shape[-1] == shape.model.hidden_size else None)


def is_new(axis: str | None, size: int, base: Shape, grown: Shape) -> Tensor:
    """Which indices along an axis of ``size`` are new, a boolean vector."""
    new = torch.zeros(size, dtype=torch.bool)
    if axis == "residual":
        new[base.model.hidden_size :] = True
    elif axis == "ffn":
        new[base.ffn :] = True
    elif axis in ("query", "key"):
        groups = grown.model.num_query_groups
        per_group = grown.model.num_attention_heads // groups if axis == "query" else 1
        old_per_group = base.model.num_attention_heads // base.model.num_query_groups if axis == "query" else 1
        by_group = new.view(groups, per_group, -1)
        by_group[base.model.num_query_groups :] = True
        by_group[:, old_per_group:] = True
    return new


def blocks(name: str, tensor: Tensor, base: Shape, grown: Shape) -> Iterator[tuple[str, Tensor]]:
    """(label, block) of every old and new block of a grown parameter, empty ones left out.

    Labels read ``self_attention.q[new, old]``: new rows, old columns; ``[new]`` for vectors; the bare name for what is
    not wider than before (as everything in growth by depth).
    """
    for part in parts(name, tensor, grown):
        matrix = part.tensor if part.tensor.dim() == 2 else part.tensor[None]
        rows = is_new(part.rows, len(matrix), base, grown)
        columns = is_new(part.columns, matrix.shape[1], base, grown)
        if not rows.any() and not columns.any():
            yield part.label, matrix
            continue
        for row_age, row_mask in (("old", ~rows), ("new", rows)):
            for column_age, column_mask in (("old", ~columns), ("new", columns)):
                if row_mask.any() and column_mask.any():
                    ages = f"{row_age}, {column_age}" if part.tensor.dim() == 2 else column_age
                    yield f"{part.label}[{ages}]", matrix[row_mask][:, column_mask]


def expert_of(name: str) -> int | None:
    """Number of the routed expert that a parameter belongs to."""
    match = LAYER.match(name)
    expert = EXPERT.match(match[2]) if match else None
    return int(expert[1]) if expert else None
