"""Sparse plus low-rank weights: every linear map is ``W = (alpha / r) B A + S``, S on a fixed random support.

Paper: SLTrain (arXiv 2406.02214), algorithm 1, with the initial values of the released code (andyjm3/SLTrain,
splora_linear.py): A and the values of S uniform in +-1 / sqrt(i), B zero, ``floor(density o i)`` places of S drawn
without replacement. Gradients go to B, A and the values alone, by the chain rule through the gradient G^T x in W:
``(alpha / r) (G^T x) A^T``, ``(alpha / r) B^T (G^T x)`` and ``(G^T x)[support]``.
Embedding, norms and output layer stay dense.

Deviations: the composed weight is kept from forward to backward pass, in the type of the products; the released code
composes it again. Quantised moments and updates a layer at a time, which its largest savings include, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.pretrain.memory import composing_flops, factored_parameters, sparse_entries
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.factored import FactoredLinear
    from pipelines.megatron.spec import ModelSpec


@dataclass(frozen=True)
class SLTrain:
    """Train B [o, r], A [r, i] and the values at a fixed part of W's places.

    Attributes:
        rank: r, of every linear map; the paper takes a quarter to a third of the hidden size.
        alpha: the product is scaled by alpha / rank; the paper takes 32 at 60M, 16 at 130M and 350M, 8 above.
        density: part of W's places that S has (delta); the paper takes 0.03, and 0.05 at 7B.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    composes: ClassVar[bool] = True

    rank: int
    alpha: float = 32.0
    density: float = 0.03

    def attach(self, model: Any, spec: ModelSpec, seed: int) -> None:
        from pipelines.megatron.factored import factorise

        if not 0 <= self.density <= 1:
            raise RetraceError(f"method.density is {self.density}: it is a part of all places, from 0 to 1")
        factorise(model, seed, as_released, rank=self.rank, scale=self.alpha / self.rank, density=self.density)

    def num_parameters(self, spec: ModelSpec, vocab_size: int) -> int:
        return factored_parameters(spec, vocab_size, self.rank, self.density)

    def num_indices(self, spec: ModelSpec) -> int:
        return sparse_entries(spec, self.density)

    def extra_flops_per_step(self, spec: ModelSpec) -> int:
        return composing_flops(spec, self.rank)


def as_released(layer: FactoredLinear, std: float) -> None:
    """A and the values uniform in +-1 / sqrt(inputs), B zero; the dense weights' ``std`` has no part in it."""
    from pipelines.megatron.factored import uniform, zeros

    bound = layer.shape[1] ** -0.5
    layer.factor_a.initialise, layer.factor_b.initialise = uniform(bound), zeros()
    if layer.sparse_values is not None:
        layer.sparse_values.initialise = uniform(bound)
