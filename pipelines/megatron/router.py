"""The router that MoE methods subclass: megatron's top-k router, with gating that needs no CUDA."""

from __future__ import annotations

import torch

import pipelines.megatron.backend  # noqa: F401  (before megatron.core, which it adapts)

# isort: split
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.transformer_config import TransformerConfig

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}


class BaseRouter(TopKRouter):
    """Softmax over expert logits, the k best kept and renormalised, with megatron's auxiliary loss.

    Subclasses override ``gating`` (hidden states [s, b, h] -> logits [s, b, E]) or ``routing``
    (logits -> probs [T, E], routing_map [T, E]). A parameter may carry an attribute ``initialise``, a function of
    ``(tensor, generator)`` that fills it in place; without it, it is drawn from normal(0, init_method_std).
    """

    def __init__(self, config: TransformerConfig, pg_collection: object = None) -> None:
        super().__init__(config=config, pg_collection=pg_collection)

    def gating(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [s, b, E] of hidden states [s, b, h], in ``config.moe_router_dtype`` whatever the autocast."""
        return self.linear(input, self.weight)

    def linear(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """``hidden @ weight.T`` outside autocast, in ``config.moe_router_dtype`` (hidden's own if unset)."""
        dtype = DTYPES.get(self.config.moe_router_dtype or "", hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.to(dtype), weight.to(dtype))
