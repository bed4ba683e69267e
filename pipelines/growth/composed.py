"""Growth along both axes: first every tensor in width, then the widened layers in depth, still one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class EachGrown(Mapping[str, "Tensor"]):
    """The tensors of a model that is grown tensor by tensor under the names they have, each when it is asked for.

    Attributes:
        fresh: that every look-up gives a tensor of its own.

    Args:
        grow: gives of a model of one tensor the grown one.
        keep: whether a tensor is grown once and then held, as where a gradient goes back through it.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        grow: Callable[[Mapping[str, Tensor]], Iterator[tuple[str, Tensor]]],
        keep: bool = False,
    ) -> None:
        self._tensors, self._grow = tensors, grow
        self._kept: dict[str, Tensor] | None = {} if keep else None
        self.fresh = not keep

    def __getitem__(self, name: str) -> Tensor:
        if self._kept is not None and name in self._kept:
            return self._kept[name]
        ((_, grown),) = self._grow({name: self._tensors[name]})
        if self._kept is not None:
            self._kept[name] = grown
        return grown

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
