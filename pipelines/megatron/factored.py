"""Linear layers trained as a scaled low-rank product plus a sparse matrix of fixed support: ``W = scale B A + S``.

The layer composes its weight and hands it to the same kernels as a dense one, so that it computes what a dense layer
of that weight computes, to the bit. The gradient in W exists a layer at a time, in the backward pass; no dense
gradient, moment or parameter is kept. The composed weight lives from the forward to the backward pass in the type
of the products, as a dense weight's cast does.

Megatron keeps query, key and value in one matrix, and gate and up projection in another. Each part has factors and
a support of its own, as if it were a layer by itself.

Shapes: o outputs, i inputs, r rank, p parts, n entries of S (all parts together).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pipelines.megatron.products import product, weight_gradient
from pipelines.megatron.seeds import seed_of
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt

Initialiser = Callable[["FactoredLinear", float], None]
"""Called with a layer and the standard deviation of a dense weight in its place; gives each parameter an attribute
``initialise(tensor, generator)``."""


class Compose(Function):
    """``W[rows of part] = scale B[rows] A[part]``, plus ``values`` at flat ``indices``; outside autocast."""

    @staticmethod
    def forward(
        ctx: Any,
        factor_a: Tensor,
        factor_b: Tensor,
        values: Tensor | None,
        indices: Tensor | None,
        rows: tuple[Tensor, ...],
        scale: float,
    ) -> Tensor:
        """factor_a [p, r, i], factor_b [o, r], values and indices [n], rows of each part -> [o, i]."""
        ctx.save_for_backward(factor_a, factor_b, indices)
        ctx.rows, ctx.scale = rows, scale
        with torch.autocast(factor_a.device.type, enabled=False):
            weight = factor_b.new_empty(factor_b.shape[0], factor_a.shape[2])
            for a, here in zip(factor_a, rows, strict=True):
                weight[here] = product(factor_b[here], a).mul_(scale)
            if values is not None and indices is not None:
                # No index is there twice, so that the order of the additions does not matter.
                weight.view(-1).index_add_(0, indices, values)
        return weight

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factor_a, factor_b, indices = ctx.saved_tensors
        d_a, d_b = torch.empty_like(factor_a), torch.empty_like(factor_b)
        for part, (a, here) in enumerate(zip(factor_a, ctx.rows, strict=True)):
            grad_here = grad[here]
            d_a[part] = weight_gradient(factor_b[here], grad_here).mul_(ctx.scale)
            d_b[here] = product(grad_here, a.t()).mul_(ctx.scale)
        d_values = None if indices is None else grad.reshape(-1)[indices]
        return d_a, d_b, d_values, None, None, None


class FactoredLinear(torch.nn.Module):
    """A bias-free linear layer of trained factors, and trained values at a support that never changes.

    Attributes:
        factor_a, factor_b: A [p, r, i] and B [o, r].
        sparse_values: [n]; absent where the density gives no entry.
        sparse_indices: flat places ``row * i + column`` of the values, ascending, int64 [n].
    """

    sparse_values: torch.nn.Parameter | None
    sparse_indices: Tensor | None

    def __init__(self, rows: tuple[Tensor, ...], inputs: int, rank: int, scale: float, density: float) -> None:
        """A layer with all parameters zero and no support drawn.

        Args:
            rows: row numbers of each part; together every row once.
            density: entries of S / entries of W, rounded down in each part.
        """
        super().__init__()
        outputs = sum(map(len, rows))
        self.shape, self.rows, self.scale = (outputs, inputs), rows, scale
        self.factor_a = torch.nn.Parameter(torch.zeros(len(rows), rank, inputs))
        self.factor_b = torch.nn.Parameter(torch.zeros(outputs, rank))
        self.num_entries = [math.floor(density * len(each) * inputs) for each in rows]
        total = sum(self.num_entries)
        self.register_parameter("sparse_values", torch.nn.Parameter(torch.zeros(total)) if total else None)
        self.register_buffer("sparse_indices", torch.zeros(total, dtype=torch.int64) if total else None)
        if self.sparse_values is not None:
            # Entries of a matrix: decayed as matrices are.
            self.sparse_values.decayed = True

    @property
    def weight(self) -> Tensor:
        """W [o, i], composed anew; differentiable in the factors and the values."""
        weight: Tensor = Compose.apply(
            self.factor_a, self.factor_b, self.sparse_values, self.sparse_indices, self.rows, self.scale
        )
        return weight

    def draw_support(self, seed: int) -> None:
        """Draw the places of S: in each part uniformly, none twice."""
        if self.sparse_indices is None:
            return
        generator = torch.Generator().manual_seed(seed)
        inputs, places = self.shape[1], []
        for here, count in zip(self.rows, self.num_entries, strict=True):
            chosen = torch.randperm(len(here) * inputs, generator=generator)[:count]
            places.append(here.cpu()[chosen // inputs] * inputs + chosen % inputs)
        self.sparse_indices.copy_(torch.cat(places).sort().values)

    def factor_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name within the layer, tensor) of what the layer is made of, the support included."""
        yield from ((name, parameter.detach()) for name, parameter in self.named_parameters())
        yield from self.named_buffers()

    def _apply(self, fn: Any, recurse: bool = True) -> FactoredLinear:
        super()._apply(fn, recurse)
        self.rows = tuple(each.to(self.factor_a.device) for each in self.rows)
        return self


def factorise(
    model: Gpt, seed: int, init: Initialiser, *, rank: int, scale: float, density: float = 0.0, std: float = 0.02
) -> None:
    """Replace every linear layer of the decoder; embedding, norms and head stay as they are.

    Called between the building of a model and the filling of its weights (``prepare`` of ``build_model``).

    Args:
        seed: of the supports, each drawn with its layer's global name.
        std: standard deviation of dense weights (``init_method_std``), from which ``init`` starts.

    Raises:
        RetraceError: a mixture of experts, or a rank that exceeds a part's sizes.
    """
    config = model.config
    if config.num_moe_experts:
        raise RetraceError("only a dense model's linear layers can be factored: leave the experts out")
    d = config.hidden_size // config.num_attention_heads
    groups, queries = config.num_query_groups, config.num_attention_heads // config.num_query_groups
    # Rows of qkv lie by group: its queries, its key, its value.
    by_group = torch.arange(groups * (queries + 2) * d).view(groups, queries + 2, d)
    query, key, value = (by_group[:, here].flatten() for here in (slice(0, queries), queries, queries + 1))
    gate, up = torch.arange(2 * config.ffn_hidden_size).chunk(2)
    hidden = torch.arange(config.hidden_size)
    to_residual = 1 / math.sqrt(2 * config.num_layers)
    for layer in model.decoder.layers:
        for name, rows, inputs, share in (
            ("self_attention.linear_qkv", (query, key, value), config.hidden_size, 1.0),
            ("self_attention.linear_proj", (hidden,), config.hidden_size, to_residual),
            ("mlp.linear_fc1", (gate, up), config.hidden_size, 1.0),
            ("mlp.linear_fc2", (hidden,), config.ffn_hidden_size, to_residual),
        ):
            smallest = min(inputs, *map(len, rows))
            if rank > smallest:
                raise RetraceError(f"method.rank {rank} exceeds {smallest}, the smaller size of a matrix in {name}")
            factored = FactoredLinear(rows, inputs, rank, scale, density)
            factored.draw_support(seed_of(seed, f"decoder.layers.{layer.layer_number - 1}.{name}.sparse_indices"))
            init(factored, std * share)
            parent, _, last = name.partition(".")
            setattr(getattr(layer, parent), last, factored)


def factored_layers(model: torch.nn.Module) -> dict[str, FactoredLinear]:
    """Local module name -> layer, of this rank's factored layers."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}


@torch.no_grad()  # type: ignore[untyped-decorator]
def set_supports(model: Gpt, stored: Mapping[str, Tensor]) -> None:
    """Take every support from a checkpoint's factors, in place of the drawn one.

    Raises:
        RetraceError: a support is missing or of another size.
    """
    from pipelines.megatron.initialisation import given_tensor, global_name

    for name, layer in factored_layers(model).items():
        if layer.sparse_indices is not None:
            whole = global_name(model, f"{name}.sparse_indices")
            layer.sparse_indices.copy_(given_tensor(stored, whole, layer.sparse_indices, "the checkpoint's factors"))


def uniform(bound: float) -> Callable[[Tensor, torch.Generator], None]:
    """A parameter's ``initialise``: uniform in [-bound, bound]."""
    return lambda tensor, generator: tensor.uniform_(-bound, bound, generator=generator)


def normal(std: float) -> Callable[[Tensor, torch.Generator], None]:
    """A parameter's ``initialise``: normal(0, std)."""
    return lambda tensor, generator: tensor.normal_(0.0, std, generator=generator)


def zeros() -> Callable[[Tensor, torch.Generator], None]:
    """A parameter's ``initialise``: all zero."""
    return lambda tensor, generator: tensor.zero_()
