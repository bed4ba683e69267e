"""Zero padding in width: new units that are nothing at growth, beside old ones left alone (G_zero, widthwise).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_zero in width, eq 14. A matrix W becomes [[W, A], [0, C]] with A
and C drawn anew: new rows read nothing of the old inputs, and old rows read of new ones, which are zero. The embedding
gets columns of zeros, heads and feed-forward units of the new rows put out zero, and so the new dimensions of the
residual stream stay zero through the model. RMSNorm divides by the mean over more dimensions: old gains are scaled by
sqrt(d / D) and ``layernorm_epsilon`` by d / D, which makes the function exactly the base's.

At growth few of the new parameters get a gradient: embedding columns, new rows of values, and of both output
projections on old columns. ``zeroed: columns`` is the other way round within a layer: new heads and feed-forward units
read the old dimensions by random weights, and nothing reads them; then what reads them is alive at once.

Gradients of old parameters are the base's, those of gains times sqrt(D / d); of new ones ``grow_moments`` gives zeros.

Deviations: the released code scales no gains, which changes the function, and sets new gains to zero, which leaves only
new rows of values alive; here new gains are ``new_gain``. New weights have the base's ``init_method_std``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.protocol import EXACT_BOUND, Preservation
from pipelines.growth.width import Widening
from pipelines.megatron.seeds import seed_of
from pipelines.megatron.spec import WIDTHS
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class ZeroWidth:
    """Add units that are zero at growth.

    Attributes:
        growth_factor: width of the grown model over the base's, 1.5 for half as wide again.
        zeroed: what makes the new units of a layer nothing: their ``rows`` on old inputs (the paper's), or the
            ``columns`` that read them.
        new_gain: gains of the norms for new dimensions.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "width"

    growth_factor: float = 2.0
    zeroed: Literal["rows", "columns"] = "rows"
    new_gain: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.growth_factor < math.inf:
            raise RetraceError(f"method.growth_factor must be at least 1, and is {self.growth_factor}")

    def target(self, base: ModelSpec) -> ModelSpec:
        changes: dict[str, Any] = {name: self._wider(name, getattr(base, name)) for name in WIDTHS}
        changes["layernorm_epsilon"] = base.layernorm_epsilon * base.hidden_size / changes["hidden_size"]
        return base.model_copy(update=changes)

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        wider = self._wider("moe_ffn_hidden_size", base.moe_ffn_hidden_size)
        return base.model_copy(update={"moe_ffn_hidden_size": wider})

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        scale = math.sqrt(base.hidden_size / self.target(base).hidden_size)
        for name in tensors:
            yield name, self._padded(base, name, tensors[name], scale, self.new_gain, seed)

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        scale = math.sqrt(self.target(base).hidden_size / base.hidden_size) ** power
        for name in tensors:
            yield name, self._padded(base, name, tensors[name], scale, 0.0, None)

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("exact", bound=EXACT_BOUND)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        grown = self.target(base)
        return {
            "new_hidden_size": grown.hidden_size - base.hidden_size,
            "new_heads": grown.num_attention_heads - base.num_attention_heads,
            "layernorm_epsilon": grown.layernorm_epsilon,
        }

    def _wider(self, name: str, size: int) -> int:
        """A width times the factor, where that is a whole number.

        Raises:
            RetraceError: it is none.
        """
        wider = Fraction(self.growth_factor).limit_denominator(1000) * size
        if wider.denominator != 1:
            raise RetraceError(
                f"method.growth_factor: {self.growth_factor} times {name} {size} is not a whole number: heads are "
                "added whole, and as many queries to every group"
            )
        return wider.numerator

    def _padded(
        self, base: ModelSpec, name: str, tensor: Tensor, scale: float, new_gain: float, seed: int | None
    ) -> Tensor:
        """A parameter with its new units; random where they may be, or all zero with no seed."""
        import torch

        # Which axes of a parameter are units is the same whatever the factor and the way of growing.
        role = Widening(base, 1, "groups").role(name)
        if role.columns is None:
            new = self._wider("hidden_size", len(tensor)) - len(tensor)
            return torch.cat([scale * tensor, tensor.new_full((new,), new_gain)])
        halves = tensor.chunk(2) if name.endswith("linear_fc1.weight") else (tensor,)
        generator = None if seed is None else torch.Generator().manual_seed(seed_of(seed, name))
        framed = [self._framed(base, name, half, role.rows, role.columns, generator) for half in halves]
        return framed[0] if len(framed) == 1 else torch.cat(framed)

    def _framed(
        self,
        base: ModelSpec,
        name: str,
        old: Tensor,
        more_rows: bool,
        columns: str,
        generator: Any,
    ) -> Tensor:
        """[[old, A], [B, C]] with B or what else must be nothing at growth left zero."""
        rows = self._wider("rows", len(old)) if more_rows else len(old)
        wide = old.new_zeros(rows, self._wider("columns", old.shape[1]))
        if generator is not None and not name.startswith("embedding."):
            wide.normal_(0.0, base.init_method_std, generator=generator)
            if self.zeroed == "columns" and columns != "residual":
                # Nothing reads the new units of the layer, and they write to no new dimension.
                wide[:, old.shape[1] :] = 0
            if self.zeroed == "rows" or columns != "residual":
                wide[len(old) :, : old.shape[1]] = 0
        wide[: len(old), : old.shape[1]] = old
        return wide
