"""Upcycling: a dense model's weights as the start of a mixture of experts (arXiv 2212.05055).

Every expert starts as a copy of the dense feed-forward layer of its depth; routers start as in a new model, from
the seed and their names. With renormalised top-k gates the experts' equal outputs are weighted by gates that sum
to 1, so the upcycled model is the same function as the dense one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipelines.megatron.initialisation import global_names, initialise

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.megatron.model import Gpt

_EXPERT = re.compile(r"^(decoder\.layers\.\d+\.mlp\.)experts\.local_experts\.\d+\.(linear_fc[12]\.weight)$")


class UpcycledWeights(Mapping[str, "Tensor"]):
    """Global name -> tensor of the mixture-of-experts model that a dense model becomes.

    Routing parameters are not in the dense model: :meth:`fill_routers` draws them, on the built model.
    """

    def __init__(self, dense: Mapping[str, Tensor]) -> None:
        self._dense = dense
        self._routers: dict[str, Tensor] = {}

    def fill_routers(self, model: Gpt, seed: int, std: float) -> None:
        """Take the routers' weights from a model filled by name from ``seed``, as one trained from scratch is."""
        initialise(model, seed, std)
        parameters = dict(model.named_parameters())
        self._routers = {
            name: parameters[local].detach().clone() for local, name in global_names(model).items() if is_routing(name)
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._routers[name] if name in self._routers else self._dense[dense_name(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._routers or (isinstance(name, str) and dense_name(name) in self._dense)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._dense, *self._routers))

    def __len__(self) -> int:
        return len(self._dense) + len(self._routers)


def is_routing(name: str) -> bool:
    """Whether a parameter belongs to a router, or to what routers share."""
    return ".mlp.router." in name or name.startswith("router_")


def dense_name(name: str) -> str:
    """Name in the dense model of what a mixture-of-experts parameter is a copy of."""
    return _EXPERT.sub(r"\1\2", name)
