"""Depthwise stacking: the trained base model copied g times on top of itself (G_stack).

Paper: Stacking Your Transformers (arXiv 2405.15319), algorithm 1: layer i of the grown model is a copy of layer
i mod l of the base, i = 0 .. g*l - 1; embedding, final norm and output layer are copied once. It does not
preserve the function: the loss jumps at growth and recovers.

Gradients of the grown model are no function of the base's; ``grow_moments`` copies each layer's moments with it.

``pattern`` has the paper's ablations, interpolation (0 0 1 1) and partial stacking (0 1 1 1 2), and ``stacking_list``
any other list: gradual stacking (growth by 2, twice), depth upscaling as SOLAR does it (arXiv 2312.15166: two copies
that overlap). ``noise_coeff`` is the paper's ablation W <- (1 - a) W + a e, with e normal of variance 2 / (5 d), and
1 / (d L^2) for output projections.

Deviations: the text does not say which matrices the noise goes to; here to those of every grown layer, while
embedding, output layer and gains stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.growth.depth import OUTPUT_PROJECTIONS, connection_rate, copy_layers, grown_layers, layer_of
from pipelines.growth.drawing import generator_of, normal
from pipelines.growth.protocol import Preservation
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.protocol import Axis
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


@dataclass(frozen=True)
class Stack:
    """Copy the base's layers g times, or by a list.

    Attributes:
        growth_factor: copies of the base (g); the paper advises 4, and finds 2 to 4 best.
        pattern: what is repeated and in which order; ``stack`` is the paper's method, the others its ablations.
        stacking_list: base layer of every grown layer; given, it takes the place of growth_factor and pattern.
        noise_coeff: share of noise in the layers' matrices (a); the paper finds 0.2 slightly better, more much worse.
    """

    requires: ClassVar[tuple[str, ...]] = ("base",)
    axis: ClassVar[Axis] = "depth"

    growth_factor: int = 4
    pattern: Literal["stack", "interpolate", "front", "middle", "back"] = "stack"
    stacking_list: tuple[int, ...] | None = None
    noise_coeff: float = 0.0

    def layers(self, base: ModelSpec) -> list[int]:
        """Base layer of every layer of the grown model."""
        if not 0 <= self.noise_coeff <= 1:
            raise RetraceError(f"method.noise_coeff must be between 0 and 1, got {self.noise_coeff}")
        return grown_layers(base, self.growth_factor, self.stacking_list, self.pattern)

    def target(self, base: ModelSpec) -> ModelSpec:
        return base.model_copy(update={"num_layers": len(self.layers(base))})

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        return base

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        layers = self.layers(base)
        for name, tensor in copy_layers(tensors, layers):
            if self.noise_coeff and layer_of(name) is not None and tensor.dim() == 2:
                self._add_noise(name, tensor, base.hidden_size, len(layers), seed)
            yield name, tensor

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        return copy_layers(tensors, self.layers(base))

    def preserves(self, base: ModelSpec) -> Preservation:
        if self.layers(base) == list(range(base.num_layers)) and not self.noise_coeff:
            return Preservation("exact", bound=0.0)
        return Preservation("none", "the layers act on states that they were not trained on")

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        layers = self.layers(base)
        return {
            "stacking_list": layers,
            "connection_rate": round(connection_rate(layers), 2),
        }

    def _add_noise(self, name: str, tensor: Tensor, hidden_size: int, num_layers: int, seed: int) -> None:
        out = name.endswith(OUTPUT_PROJECTIONS)
        variance = 1 / (hidden_size * num_layers**2) if out else 2 / (5 * hidden_size)
        noise = normal(tensor.shape, variance**0.5, generator_of(seed, name))
        tensor.mul_(1 - self.noise_coeff).add_(noise.to(tensor.dtype), alpha=self.noise_coeff)
