"""What routers do on a stretch of data: load of the experts, entropy of the gates, balance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt

# Shape suffixes: T tokens, L layers, N experts.


class RoutingStatistics:
    """Sums over every token that passed, a row a layer of the whole model."""

    def __init__(self, num_layers: int, num_experts: int, topk: int) -> None:
        self.topk = topk
        self.tokens_LN = torch.zeros(num_layers, num_experts, dtype=torch.float64)
        self.probs_LN = torch.zeros(num_layers, num_experts, dtype=torch.float64)
        self.entropy_L = torch.zeros(num_layers, dtype=torch.float64)
        self.tokens_L = torch.zeros(num_layers, dtype=torch.float64)

    @contextmanager
    def watching(self, model: Gpt) -> Iterator[RoutingStatistics]:
        """Count every routing decision of the model inside the ``with`` block; routing itself is unchanged."""
        routers = [layer.mlp.router for layer in model.decoder.layers]
        for router in routers:
            router.routing = self._watched(router.routing, router.layer_number - 1)
        try:
            yield self
        finally:
            for router in routers:
                # The instance's attribute goes; the class's method is seen again.
                del router.routing

    def _watched(self, routing: Callable[..., Any], layer: int) -> Callable[..., Any]:
        def watch(logits: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
            probs, routing_map = routing(logits, padding_mask=padding_mask)
            self.add(layer, logits.detach().flatten(0, -2), routing_map)
            return probs, routing_map

        return watch

    def add(self, layer: int, logits_TN: torch.Tensor, routing_map_TN: torch.Tensor) -> None:
        """Count the tokens of one layer's decision."""
        softmax_TN = logits_TN.double().softmax(-1)
        self.tokens_LN[layer] += routing_map_TN.sum(0).cpu()
        self.probs_LN[layer] += softmax_TN.sum(0).cpu()
        self.entropy_L[layer] += torch.special.entr(softmax_TN).sum().cpu()
        self.tokens_L[layer] += len(logits_TN)

    def metrics(self) -> dict[str, float]:
        """Means over layers, of all ranks' tokens together (call on every rank).

        ``load_imbalance``: tokens of the busiest expert over the mean, 1 at balance. ``router_entropy``: nats of
        the softmax over all experts. ``val_aux_loss``: N / k * sum_n f_n P_n, 1 at balance.
        """
        tokens_LN, probs_LN = _over_ranks(self.tokens_LN), _over_ranks(self.probs_LN)
        entropy_L, tokens_L = _over_ranks(self.entropy_L), _over_ranks(self.tokens_L).clamp(min=1)
        num_experts = tokens_LN.shape[1]
        share_LN = tokens_LN / (tokens_L[:, None] * self.topk)
        balance_L = num_experts * (share_LN * probs_LN / tokens_L[:, None]).sum(-1)
        return {
            "load_imbalance": float((share_LN.amax(-1) * num_experts).mean()),
            "router_entropy": float((entropy_L / tokens_L).mean()),
            "val_aux_loss": float(balance_L.mean()),
        }


def _over_ranks(sums: torch.Tensor) -> torch.Tensor:
    """The sums with the other data-parallel ranks' tokens and the other pipeline stages' layers added."""
    if not torch.distributed.is_initialized():
        return sums
    total = sums.to(backend.device())
    torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
    torch.distributed.all_reduce(total, group=parallel_state.get_pipeline_model_parallel_group())
    return total.cpu()
