"""What a growth method is: a map from a base model's tensors to a larger model's.

A method works on named tensors alone, one after another, so that ``growth grow`` never holds a whole model in
memory, and the same method serves it and ``growth train``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.megatron.spec import ModelSpec


class GrowthMethod(Protocol):
    """Hooks of a growth method (a frozen dataclass of its hyper-parameters).

    Attributes:
        requires: ``("base",)`` for a method that grows a base model, ``()`` for one that starts from nothing.
    """

    requires: ClassVar[tuple[str, ...]]

    def target(self, base: ModelSpec) -> ModelSpec:
        """Shape of the model that growing ``base`` gives.

        Raises:
            RetraceError: the method cannot grow this shape.
        """
        ...

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Every (global name, tensor) of the grown model, each in a buffer of its own.

        Args:
            base: shape of the base model.
            tensors: global name -> tensor of the base model; looked up one at a time.
        """
        ...

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        """What run.json says of the growth: ``preserved`` (same function before and after?) and the method's own."""
        ...
