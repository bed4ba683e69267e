"""What a routing method is: a router for every layer, and what all layers share.

Method files import no torch at module level: planning a graph asks them for ``supports_pipeline``. The baseline
is Megatron's TopKRouter; counts below are relative to its one linear map a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn import Module

    from pipelines.megatron.spec import ExpertSpec, ModelSpec

    RouterBuilder = Callable[..., Module]


class MoEMethod(Protocol):
    """Hooks of a routing method (a frozen dataclass of its hyper-parameters).

    Attributes:
        requires: inputs of ``moe train`` that it cannot do without.
        supports_pipeline: False if state passes between layers beside the hidden states, so that the layers
            must lie on one pipeline stage.
        exports_as_mixtral: True if the router is the linear map that MixtralForCausalLM has.
    """

    requires: ClassVar[tuple[str, ...]]
    supports_pipeline: ClassVar[bool]
    exports_as_mixtral: ClassVar[bool]

    def router(self) -> RouterBuilder:
        """What builds the router of one layer: ``router(config=..., pg_collection=...)``, as MoESubmodules wants."""
        ...

    def attach(self, model: Any) -> None:
        """Give the built model the parameters that its layers share, and the routers their way to them.

        What training changes must be a parameter or a buffer of a module: checkpoints of an unfinished job hold these.
        """
        ...

    def num_extra_parameters(self, model: ModelSpec, experts: ExpertSpec) -> int:
        """Parameters beyond those of linear routers, all layers together."""
        ...

    def extra_flops_per_token(self, model: ModelSpec, experts: ExpertSpec) -> int:
        """Floating-point operations of a forward pass beyond those of linear routers, all layers together."""
        ...
