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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.drawing import generator_of, normal
from pipelines.growth.padding import Gains, Padding, check_growth_factor, facts_of_padding, wider_experts
from pipelines.growth.protocol import EXACT_BOUND, Preservation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.padding import Fill
    from pipelines.growth.protocol import Axis
    from pipelines.growth.width import Units
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
        check_growth_factor(self.growth_factor)

    def target(self, base: ModelSpec) -> ModelSpec:
        return Padding(base, self.growth_factor).target(scale_epsilon=True)

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return wider_experts(base, self.growth_factor)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        padding = Padding(base, self.growth_factor)
        gains = Gains(padding.gain_scale, self.new_gain)
        for name in tensors:
            yield name, padding.padded(name, tensors[name], gains, self._fill(base, name, seed))

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        return Padding(base, self.growth_factor).moments(tensors, power)

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("exact", bound=EXACT_BOUND)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        return facts_of_padding(base, self.target(base))

    def _fill(self, base: ModelSpec, name: str, seed: int) -> Fill | None:
        """[[old, A], [B, C]] with B or what else must be nothing at growth left zero; the embedding has no new rows."""
        if name.startswith("embedding."):
            return None
        generator = generator_of(seed, name)

        def fill(wide: Tensor, rows: int, columns: int, read: Units) -> None:
            wide.copy_(normal(wide.shape, base.init_method_std, generator))
            if self.zeroed == "columns" and read != "residual":
                # Nothing reads the new units of the layer, and they write to no new dimension.
                wide[:, columns:] = 0
            if self.zeroed == "rows" or read != "residual":
                wide[rows:, :columns] = 0

        return fill
