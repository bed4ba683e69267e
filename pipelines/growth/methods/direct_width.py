"""Direct duplication in width: every unit k times, what reads it split among the copies (G_direct, widthwise).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_direct in width, eqs 7-9; after Net2Net (arXiv 1511.05641) and
bert2BERT (arXiv 2110.07143). Rows of every matrix are copied with their unit. Of a unit's k copies each is read with a
share of its old column, and the shares add up to 1, so the function stays what it was: the mean square that RMSNorm
divides by does not change when every dimension is repeated equally often, and the gains are repeated with them. Where
the output layer is the embedding, which cannot both be copied and split, the final norm's gain is divided by k.

With equal shares (``symmetry_break: 0``) a unit's copies get equal gradients and never part: the added width is dead.
The paper's runs split unevenly; here copy i has the share (1 + s (n_i - mean n)) / k with n_i normal, drawn for each
matrix and column, and s ``symmetry_break``.

``grow_moments`` is exact for equal shares (each copy gets a k-th of the base's gradient, what is not repeated all of
it), and the same for uneven ones, where a copy's gradient is no function of the base's.

Deviations: the paper admits uneven numbers of copies and scales gains by sqrt(d / D), which preserves nothing; here
every unit has k copies. The released code repeats the rows of fused query, key and value in thirds, which mixes heads;
here heads are copied whole, as new groups or inside their group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.drawing import generator_of
from pipelines.growth.protocol import EXACT_BOUND, Preservation
from pipelines.growth.width import Widening, repeated_tensors, role_of, widened_experts
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class DirectWidth:
    """Repeat every unit and split what reads it.

    Attributes:
        growth_factor: copies of every residual dimension, feed-forward unit and head.
        heads: ``groups``: copies of heads have keys and values of their own; ``queries``: they join their group.
        symmetry_break: standard deviation of a copy's share, relative to the mean share; 0: all equal.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "width"

    growth_factor: int = 2
    heads: Literal["groups", "queries"] = "groups"
    symmetry_break: float = 0.1

    def __post_init__(self) -> None:
        if self.growth_factor < 1:
            raise RetraceError(f"method.growth_factor must be at least 1, and is {self.growth_factor}")
        if not 0 <= self.symmetry_break < float("inf"):
            raise RetraceError(f"method.symmetry_break must be a number from 0 on, and is {self.symmetry_break}")

    def target(self, base: ModelSpec) -> ModelSpec:
        return self._widening(base).target()

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return widened_experts(base, self.growth_factor)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        widening = self._widening(base)
        tied = not base.untie_embeddings_and_output_weights
        for name, tensor in repeated_tensors(widening, tensors):
            if role_of(base, name).columns is None:
                yield name, tensor / self.growth_factor if tied and name.startswith("decoder.final") else tensor
            elif name.startswith("embedding."):
                yield name, tensor
            else:
                yield name, tensor.mul_(self._shares(widening, name, tensor, seed))

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        widening = self._widening(base)
        for name in tensors:
            yield name, widening.gradient(name, tensors[name], power)

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("exact", bound=EXACT_BOUND)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        return {"copies": self.growth_factor, "head_size": base.hidden_size // base.num_attention_heads}

    def _widening(self, base: ModelSpec) -> Widening:
        return Widening(base, self.growth_factor, self.heads)

    def _shares(self, widening: Widening, name: str, tensor: Tensor, seed: int) -> Tensor:
        """The share [columns] of each column of a widened matrix; those of the copies of one column add up to 1."""
        import torch

        k = self.growth_factor
        generator = generator_of(seed, name)
        noise = torch.randn(k, tensor.shape[1] // k, generator=generator, dtype=torch.float64)
        shares = (1 + self.symmetry_break * (noise - noise.mean(0))) / k
        return widening.arranged(name, shares).to(tensor.dtype)
