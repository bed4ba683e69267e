"""Identity blocks: copies of layers that add nothing to the residual stream at growth (G_zero, depthwise).

Paper: Stacking Your Transformers (arXiv 2405.15319), G_zero in depth; the block is LLaMA-Pro's (arXiv 2401.02415). A
copy's output projections (attention's, and the feed-forward layer's second or every expert's) are zero: the block is
the identity, wherever it stands, and the function stays exactly what it was. The first step reaches these two
projections alone, the rest of the block from the second step on. ``zeroed: gains`` zeroes both norm gains instead:
exact too, but the first step reaches nothing of the block but attention's gain.

Where the paper's runs put the new blocks is not stated; by default each follows the layer it copies, as in the released
script. In ``stacking_list`` the first entry of a layer is the base's own, every other a copy.

Gradients of the base's own layers are the base's; of the new blocks ``grow_moments`` knows nothing and gives zeros.

Deviations: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.depth import (
    OUTPUT_PROJECTIONS,
    copy_layers,
    copy_own_layers,
    inserted_layers,
    insertion_facts,
    layer_of,
    layers_between,
)
from pipelines.growth.protocol import Preservation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

GAINS = ("input_layernorm.weight", "pre_mlp_layernorm.weight")


@dataclass(frozen=True)
class ZeroDepth:
    """Insert copies of layers that are the identity at first.

    Attributes:
        growth_factor: layers of the grown model for each of the base's.
        stacking_list: base layer of every grown layer; given, it takes the place of growth_factor.
        zeroed: what makes a copy the identity: ``output_projections`` or ``gains``.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "depth"

    growth_factor: int = 4
    stacking_list: tuple[int, ...] | None = None
    zeroed: Literal["output_projections", "gains"] = "output_projections"

    def layers(self, base: ModelSpec) -> list[int]:
        """Base layer of every layer of the grown model."""
        return layers_between(base, self.growth_factor, self.stacking_list)

    def target(self, base: ModelSpec) -> ModelSpec:
        return base.model_copy(update={"num_layers": len(self.layers(base))})

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return base

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        layers = self.layers(base)
        inserted = set(inserted_layers(layers, base.num_layers))
        zeroed = OUTPUT_PROJECTIONS if self.zeroed == "output_projections" else GAINS
        for name, tensor in copy_layers(tensors, layers):
            yield name, tensor.zero_() if layer_of(name) in inserted and name.endswith(zeroed) else tensor

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        return copy_own_layers(tensors, self.layers(base), base.num_layers)

    def preserves(self, base: ModelSpec) -> Preservation:
        return Preservation("exact", bound=0.0)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        return insertion_facts(self.layers(base), base.num_layers)
