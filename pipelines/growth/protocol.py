"""What a growth method is: a map from a base model's tensors to a larger model's.

A method works on named tensors alone, one after another, so that ``growth grow`` never holds a whole model in
memory, and the same method serves it and ``growth train``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.megatron.spec import ExpertSpec, ModelSpec

EXACT_BOUND = 1e-12
"""Float64 rounding through a deep model stays well below; the mildest real mistake known (epsilon) is 5e-6."""

Axis = Literal["depth", "width", "both", "none"]


@dataclass(frozen=True)
class Preservation:
    """What a method declares of the function before and after; ``growth grow`` measures it (certificate.py).

    Attributes:
        kind: ``exact``; ``exact_if``: exact under ``condition``, which this base and these hyper-parameters meet;
            ``none``: another function.
        condition: what must hold (``exact_if``), or why the function changes (``none``).
        bound: largest deviation of the logits, relative to their norm, that float64 arithmetic explains; None for
            ``none``.
    """

    kind: Literal["exact", "exact_if", "none"]
    condition: str = ""
    bound: float | None = None

    @property
    def preserved(self) -> bool:
        """Whether the grown model is the base's function."""
        return self.kind != "none"


class GrowthMethod(Protocol):
    """Hooks of a growth method (a frozen dataclass of its hyper-parameters).

    Attributes:
        requires: ``("base",)`` for a method that grows a base model, ``()`` for one that starts from nothing.
        axis: what grows: ``depth``, ``width``, ``both`` or ``none``. Read from the file, as ``requires`` is.
    """

    requires: ClassVar[tuple[str, ...]]
    axis: ClassVar[Axis]

    def target(self, base: ModelSpec) -> ModelSpec:
        """Shape of the model that growing ``base`` gives.

        Raises:
            RetraceError: the method cannot grow this shape.
        """
        ...

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        """Shape of the grown model's experts, for a base that is a mixture of experts.

        Raises:
            RetraceError: the method cannot grow them.
        """
        ...

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        """Every (global name, tensor) of the grown model, each in a buffer of its own, in the base's dtype.

        Args:
            base: shape of the base model.
            tensors: global name -> tensor of the base model; looked up one at a time.
            seed: of what is random; each tensor draws from ``drawing.generator_of(seed, its global name)``.
        """
        ...

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        """What gradients of the base (or averages of their powers) become at growth, by global name.

        Exact where the method preserves the function and its docstring says nothing else: the grown model's gradient
        in terms of the base's, with zeros where the base's says nothing (new units). Elsewhere a guess that the
        method's docstring states.

        Args:
            tensors: gradients, or exp_avg (power 1); squared gradients, or exp_avg_sq (power 2).
            power: 1 or 2: a gradient scaled by c has its square scaled by c squared.
            seed: as given to ``grow``.
        """
        ...

    def preserves(self, base: ModelSpec) -> Preservation:
        """Whether the grown model computes the base's function, as declared; the certificate measures it."""
        ...

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        """What run.json says of the growth, besides what ``preserves`` declares."""
        ...


class GrowsNothing:
    """Hooks of a method that starts from random weights: each says that there is no growth."""

    refusal: ClassVar[str]

    def target(self, base: ModelSpec) -> ModelSpec:
        raise RetraceError(self.refusal)

    def target_experts(self, base: ExpertSpec) -> ExpertSpec:
        raise RetraceError(self.refusal)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        raise RetraceError(self.refusal)

    def grow_moments(
        self, base: ModelSpec, tensors: Mapping[str, Tensor], power: int, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        raise RetraceError(self.refusal)

    def preserves(self, base: ModelSpec) -> Preservation:
        raise RetraceError(self.refusal)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        raise RetraceError(self.refusal)


@runtime_checkable
class MaskedGrowthMethod(GrowthMethod, Protocol):
    """A growth method whose new parts are let in over the first steps of training (see megatron/masks.py)."""

    def masks(
        self, base: ModelSpec, parameters: Mapping[str, Tensor], iteration: int, train_iters: int
    ) -> dict[str, Tensor | float]:
        """What parameters of the grown model are multiplied by in the forward pass after ``iteration`` steps.

        Args:
            parameters: global name -> parameter of the grown model, of any of them; only shapes matter.
            train_iters: steps of the whole training after growth.

        Returns:
            of their names those that are masked by then -> a factor that broadcasts; empty after the ramp.
        """
        ...


def grow_masked(
    method: GrowthMethod, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Every (global name, tensor) of the grown model as it computes at growth, masks applied."""
    for name, tensor in method.grow(base, tensors, seed):
        yield name, at_growth(method, base, name, tensor)


def at_growth(method: GrowthMethod, base: ModelSpec, name: str, tensor: Tensor) -> Tensor:
    """A grown parameter with the mask of the first step."""
    masks = method.masks(base, {name: tensor}, 0, 1) if isinstance(method, MaskedGrowthMethod) else {}
    return tensor * masks[name] if name in masks else tensor


def declared(method: GrowthMethod, base: ModelSpec) -> dict[str, Any]:
    """What run.json says of a growth before anything is measured."""
    preservation = method.preserves(base)
    return {**method.facts(base), "preserved": preservation.preserved, "preservation": asdict(preservation)}
