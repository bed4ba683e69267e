"""Low-rank weights: every linear map is ``W = B A``, with B and A trained from random values.

Paper: the "low-rank" rows of arXiv 2406.02214 and 2403.03507, after Kamalakara et al. (arXiv 2209.13569).
Embedding, norms and output layer stay dense.

Deviations: neither paper's code has this baseline, so its initialisation is ours: normal factors of equal size whose
product has the variance of dense initial weights (B = 0, as beside a sparse matrix, would leave every gradient of
attention and feed-forward at zero). The weight is composed before it meets the data, as in ``sltrain``: that is
the same function as ``B (A x)``, at the operations of a dense model and those of composing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.pretrain.memory import composing_flops, factored_parameters

if TYPE_CHECKING:
    from pipelines.megatron.factored import FactoredLinear
    from pipelines.megatron.spec import ModelSpec


@dataclass(frozen=True)
class LowRank:
    """Train B [o, r] and A [r, i].

    Attributes:
        rank: r, of every linear map; the papers take a quarter to a third of the hidden size.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    composes: ClassVar[bool] = True

    rank: int

    def attach(self, model: Any, spec: ModelSpec, seed: int) -> None:
        from pipelines.megatron.factored import factorise

        factorise(model, seed, balanced, rank=self.rank, scale=1.0, std=spec.init_method_std)

    def num_parameters(self, spec: ModelSpec, vocab_size: int) -> int:
        return factored_parameters(spec, vocab_size, self.rank)

    def num_indices(self, spec: ModelSpec) -> int:
        return 0

    def extra_flops_per_step(self, spec: ModelSpec) -> int:
        return composing_flops(spec, self.rank)


def balanced(layer: FactoredLinear, std: float) -> None:
    """Normal factors of equal variance, whose product has entries of standard deviation ``std``."""
    from pipelines.megatron.factored import normal

    rank = layer.factor_b.shape[1]
    each = (std / (layer.scale * rank**0.5)) ** 0.5
    layer.factor_a.initialise = layer.factor_b.initialise = normal(each)
