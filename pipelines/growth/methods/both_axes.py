"""Growth along both axes at once: an operator in width, and one in depth on what it gives.

Paper: Stacking Your Transformers (arXiv 2405.15319), whose eight operators grow one axis each; grown together as its
predecessors do (bert2BERT, arXiv 2110.07143; MSG, arXiv 2305.02869). Width comes first, so that the layers that depth
adds are wide already; both preserve the function where each does, and their masks multiply.

Gradients go through both maps, and are exact where both are.

Deviations: operators that are learnt have a method of their own (``learn_both``), as LiGO learns its maps together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.composed import EachGrown
from pipelines.growth.methods.direct_width import DirectWidth
from pipelines.growth.methods.random_depth import RandomDepth
from pipelines.growth.methods.random_width import RandomWidth
from pipelines.growth.methods.stack import Stack
from pipelines.growth.methods.zero_depth import ZeroDepth
from pipelines.growth.methods.zero_width import ZeroWidth
from pipelines.growth.padding import check_growth_factor
from pipelines.growth.protocol import MaskedGrowthMethod, Preservation
from pipelines.growth.ramp import check_ramp_iters
from pipelines.megatron.seeds import seed_of
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis, GrowthMethod
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class BothAxes:
    """Widen every tensor, then add layers.

    Attributes:
        depth: operator in depth.
        width: operator in width.
        growth_factor: layers of the grown model for each of the base's.
        width_factor: width of the grown model over the base's; a whole number for ``direct_width``.
        symmetry_break: as of ``direct_width``.
        ramp_iters: as of ``random_depth`` and ``random_width``.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "both"

    depth: Literal["stack", "zero_depth", "random_depth"] = "stack"
    width: Literal["direct_width", "zero_width", "random_width"] = "direct_width"
    growth_factor: int = 2
    width_factor: float = 2.0
    symmetry_break: float = 0.1
    ramp_iters: int | None = None

    def __post_init__(self) -> None:
        check_growth_factor(self.growth_factor)
        check_growth_factor(self.width_factor, "width_factor")
        if self.width == "direct_width" and self.width_factor != int(self.width_factor):
            raise RetraceError(f"method.width_factor must be a whole number for direct_width, got {self.width_factor}")
        check_ramp_iters(self.ramp_iters)
        # It refuses what is wrong with symmetry_break.
        self._wider()

    def target(self, base: ModelSpec) -> ModelSpec:
        return self._deeper().target(self._wider().target(base))

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return self._deeper().target_experts(self._wider().target_experts(base))

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        wider = self._wider()
        # New units are drawn as those of a model as deep as the grown one. A layer that depth adds may bear the name of
        # one that was widened: other numbers for each.
        deep = base.model_copy(update={"num_layers": self.target(base).num_layers})
        widened = EachGrown(tensors, lambda one: wider.grow(deep, one, seed_of(seed, "width")))
        return self._deeper().grow(wider.target(base), widened, seed)

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        wider = self._wider()
        widened = EachGrown(tensors, lambda one: wider.grow_moments(base, one, power, seed_of(seed, "width")))
        return self._deeper().grow_moments(wider.target(base), widened, power, seed)

    def masks(
        self, base: ModelSpec, parameters: Mapping[str, Tensor], iteration: int, train_iters: int
    ) -> dict[str, Tensor | float]:
        deeper, wider = self._deeper(), self._wider()
        masks: dict[str, Tensor | float] = {}
        for method, model in ((wider, base), (deeper, wider.target(base))):
            if isinstance(method, MaskedGrowthMethod):
                for name, factor in method.masks(model, parameters, iteration, train_iters).items():
                    masks[name] = masks[name] * factor if name in masks else factor
        return masks

    def preserves(self, base: ModelSpec) -> Preservation:
        wider = self._wider()
        declared = wider.preserves(base), self._deeper().preserves(wider.target(base))
        for kind in ("none", "exact_if"):
            if conditions := [each.condition for each in declared if each.kind == kind]:
                bound = None if kind == "none" else max(each.bound or 0.0 for each in declared)
                return Preservation(kind, "; ".join(conditions), bound)
        return Preservation("exact", bound=max(each.bound or 0.0 for each in declared))

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        wider = self._wider()
        return {**wider.facts(base), **self._deeper().facts(wider.target(base))}

    def _deeper(self) -> GrowthMethod:
        if self.depth == "random_depth":
            return RandomDepth(self.growth_factor, ramp_iters=self.ramp_iters)
        return (Stack if self.depth == "stack" else ZeroDepth)(growth_factor=self.growth_factor)

    def _wider(self) -> GrowthMethod:
        if self.width == "direct_width":
            return DirectWidth(int(self.width_factor), symmetry_break=self.symmetry_break)
        if self.width == "random_width":
            return RandomWidth(self.width_factor, ramp_iters=self.ramp_iters)
        return ZeroWidth(self.width_factor)
