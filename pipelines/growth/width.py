"""Growth in width by repetition: every unit of a model k times, old ones first, heads whole.

Units are the dimensions of the residual stream, feed-forward units (an expert's for a mixture) and attention heads. A
head keeps its size, which the softmax's scale and the rotary embedding depend on, so there are k times as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipelines.megatron.huggingface import EXPERT, LAYER
from pipelines.megatron.spec import WIDTHS
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipelines.megatron.spec import ExpertSpec, ModelSpec

Units = Literal["residual", "ffn", "heads"]
"""What a column of a matrix is."""

Heads = Literal["groups", "queries"]
"""What more heads are: whole query groups with a key and value head of their own, or more queries in each group."""


class Repeated(NamedTuple):
    """How one parameter is repeated.

    Attributes:
        rows: whether its rows are units, so that there are k times as many.
        columns: the units that its columns are; None for a vector of units.
        shared: whether its gradient is spread over k copies, each of which gets a k-th.
    """

    rows: bool
    columns: Units | None
    shared: bool


def role_of(base: ModelSpec, name: str) -> Repeated:
    """What a parameter's rows and columns are.

    Raises:
        RetraceError: nothing is known of how it is wired.
    """
    match = LAYER.match(name)
    suffix = match[2] if match else name
    if match and (expert := EXPERT.match(suffix)):
        suffix = f"mlp.{expert[2]}.weight"
    tied = not base.untie_embeddings_and_output_weights
    roles = {
        "embedding.word_embeddings.weight": Repeated(False, "residual", True),
        "output_layer.weight": Repeated(False, "residual", False),
        "decoder.final_layernorm.weight": Repeated(True, None, not tied),
        "input_layernorm.weight": Repeated(True, None, True),
        "pre_mlp_layernorm.weight": Repeated(True, None, True),
        "self_attention.linear_qkv.weight": Repeated(True, "residual", True),
        "self_attention.linear_proj.weight": Repeated(True, "heads", True),
        "mlp.linear_fc1.weight": Repeated(True, "residual", True),
        "mlp.linear_fc2.weight": Repeated(True, "ffn", True),
        "mlp.router.weight": Repeated(False, "residual", False),
    }
    if suffix not in roles:
        raise RetraceError(f"{name}: nothing is known of how to widen it; grow this checkpoint in depth")
    return roles[suffix]


@dataclass(frozen=True)
class Widening:
    """Growth of a base to k times its width.

    Attributes:
        k: copies of every unit.
        heads: what the copies of heads are.
    """

    base: ModelSpec
    k: int
    heads: Heads

    def target(self) -> ModelSpec:
        """Shape of the widened model."""
        grown = {key: self.k * getattr(self.base, key) for key in WIDTHS}
        if self.heads == "queries":
            grown["num_query_groups"] = self.base.num_query_groups
        return self.base.model_copy(update=grown)

    def repeated(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter with its units repeated, rows and columns alike, in a buffer of its own."""
        role, k = role_of(self.base, name), self.k
        if role.columns is None:
            return tensor.repeat(k)
        if role.rows:
            tensor = self._rows(name, tensor)
        if role.columns == "heads":
            return self._by_head(tensor.T).T.contiguous()
        return tensor.repeat(1, k)

    def gradient(self, name: str, tensor: Tensor, power: int) -> Tensor:
        """What a gradient of the base is for the copies, whose columns are read with equal shares.

        Keys and values of ``queries`` serve k times as many queries, each with a k-th of the gradient: all of it.

        Args:
            tensor: gradients to the ``power``.
        """
        grown = self.repeated(name, tensor)
        if not role_of(self.base, name).shared:
            return grown
        if self.heads == "queries" and name.endswith("linear_qkv.weight"):
            queries, others = self._split_qkv(grown, self.target())
            return self._join_qkv(queries / self.k**power, others, grown.shape[-1])
        return grown.div_(self.k**power)

    def arranged(self, name: str, by_copy: Tensor) -> Tensor:
        """Numbers [k, columns of the base], one a copy of a column, in the order of the widened parameter's columns."""
        if role_of(self.base, name).columns != "heads" or self.heads == "groups":
            return by_copy.flatten()
        grouped = by_copy.reshape(self.k, self.base.num_query_groups, -1)
        return grouped.transpose(0, 1).flatten()

    def _rows(self, name: str, tensor: Tensor) -> Tensor:
        if name.endswith("linear_qkv.weight"):
            queries, others = self._split_qkv(tensor, self.base)
            if self.heads == "queries":
                # Inside its group: a query reads the key and value of the group it lies in.
                queries = queries.repeat(1, self.k, 1, 1)
            else:
                queries, others = queries.repeat(self.k, 1, 1, 1), others.repeat(self.k, 1, 1, 1)
            return self._join_qkv(queries, others, tensor.shape[-1])
        if name.endswith("linear_fc1.weight"):
            gate, up = tensor.chunk(2)
            return _cat([gate] * self.k + [up] * self.k)
        return tensor.repeat(self.k, 1)

    def _by_head(self, rows: Tensor) -> Tensor:
        """Rows [heads x head size, n], head by head in their groups, repeated as the query heads are."""
        base = self.base
        grouped = rows.reshape(base.num_query_groups, -1, rows.shape[-1])
        repeats = (1, self.k, 1) if self.heads == "queries" else (self.k, 1, 1)
        return grouped.repeat(*repeats).reshape(-1, rows.shape[-1])

    def _split_qkv(self, tensor: Tensor, model: ModelSpec) -> tuple[Tensor, Tensor]:
        """Queries [G, r, h, n], and keys and values [G, 2, h, n], of the fused weight."""
        groups, per_group = model.num_query_groups, model.num_attention_heads // model.num_query_groups
        head = model.hidden_size // model.num_attention_heads
        by_group = tensor.reshape(groups, per_group + 2, head, tensor.shape[-1])
        return by_group[:, :per_group], by_group[:, per_group:]

    def _join_qkv(self, queries: Tensor, others: Tensor, columns: int) -> Tensor:
        return _cat([queries, others], dim=1).reshape(-1, columns)


def widened_experts(base: ExpertSpec, k: int) -> ExpertSpec:
    """Shape of experts k times as wide, as many as before."""
    return base.model_copy(update={"moe_ffn_hidden_size": k * base.moe_ffn_hidden_size})


def repeated_tensors(widening: Widening, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every parameter repeated, in the base's order."""
    for name in tensors:
        yield name, widening.repeated(name, tensors[name])


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    import torch

    return torch.cat(tensors, dim)
