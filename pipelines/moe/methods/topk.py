"""Softmax over a linear map of the token, the top k experts kept and renormalised: the standard router (SMoE).

Paper: Shazeer et al. 2017 and Switch (arXiv 2101.03961, eq 1, 4-6), in Megatron's TopKRouter:
logits = x W^T, gates = softmax over the k largest logits (the same numbers as a softmax over all experts
renormalised over the top k), auxiliary loss N / k * sum_n f_n P_n per layer, with f_n the tokens an expert got
per token and P_n its mean probability. With k = 1 the gate is the softmax over all experts, not renormalised
(it would always be 1, and the router would get no gradient).

Deviations: none from Megatron; the auxiliary loss is per layer and per micro-batch, not over all layers at once
as in Hugging Face's Mixtral.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec
    from pipelines.moe.protocol import RouterBuilder


@dataclass(frozen=True)
class TopK:
    """Megatron's TopKRouter."""

    requires: ClassVar[tuple[str, ...]] = ()
    supports_pipeline: ClassVar[bool] = True
    exports_as_mixtral: ClassVar[bool] = True

    def router(self) -> RouterBuilder:
        from pipelines.megatron.router import BaseRouter

        return BaseRouter

    def attach(self, model: Any) -> None:
        """Nothing is shared."""

    def num_extra_parameters(self, model: ModelSpec, experts: ExpertSpec) -> int:
        return 0

    def extra_flops_per_token(self, model: ModelSpec, experts: ExpertSpec) -> int:
        return 0
