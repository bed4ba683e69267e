"""What routers do on a stretch of data: load of the experts, entropy of the gates, balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state

from pipelines.megatron.data import IGNORED

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt
    from pipelines.megatron.router import BaseRouter

# Shape suffixes: T tokens, L layers, N experts.


class RoutingStatistics(torch.nn.Module):
    """Sums over every token of the last evaluation, a row a layer of the whole model.

    They are buffers of the model they watch, so a training that is resumed after its evaluation still has them.
    """

    tokens_LN: torch.Tensor
    probs_LN: torch.Tensor
    entropy_L: torch.Tensor
    tokens_L: torch.Tensor

    def __init__(self, num_layers: int, num_experts: int, topk: int) -> None:
        super().__init__()
        self.topk = topk
        for name in ("tokens_LN", "probs_LN"):
            self.register_buffer(name, torch.zeros(num_layers, num_experts, dtype=torch.float64), persistent=False)
        for name in ("entropy_L", "tokens_L"):
            self.register_buffer(name, torch.zeros(num_layers, dtype=torch.float64), persistent=False)
        self._counts_T: torch.Tensor | None = None
        self._model_trained = True

    def watch(self, model: Gpt) -> None:
        """Count every routing decision of the model while it evaluates; routing itself is unchanged.

        A new evaluation (the first after training) starts from zero. Positions whose label is ignored (padding, and
        the surplus windows that keep ranks in step) do not count, so the layout does not matter.
        """
        model.routing_statistics = self
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for layer in model.decoder.layers:
            layer.mlp.router.routing = self._watched(layer.mlp.router)

    def _begin(self, model: Gpt, _inputs: Any, options: dict[str, Any]) -> None:
        if not model.training and self._model_trained:
            for sums in self.buffers():
                sums.zero_()
        self._model_trained = model.training
        labels = options.get("labels")
        # Hidden states run along the sequence first, [s, b]; labels are [b, s].
        self._counts_T = None if labels is None else (labels != IGNORED).t().flatten()

    def _watched(self, router: BaseRouter) -> Callable[..., Any]:
        routing = router.routing

        def watch(logits: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
            probs, routing_map = routing(logits, padding_mask=padding_mask)
            if not router.training:
                logits_TN = logits.detach().flatten(0, -2)
                if self._counts_T is None:
                    self.add(router.layer_number - 1, logits_TN, routing_map)
                else:
                    self.add(router.layer_number - 1, logits_TN[self._counts_T], routing_map[self._counts_T])
            return probs, routing_map

        return watch

    def add(self, layer: int, logits_TN: torch.Tensor, routing_map_TN: torch.Tensor) -> None:
        """Count the tokens of one layer's decision."""
        softmax_TN = logits_TN.double().softmax(-1)
        self.tokens_LN[layer] += routing_map_TN.sum(0)
        self.probs_LN[layer] += softmax_TN.sum(0)
        self.entropy_L[layer] += torch.special.entr(softmax_TN).sum()
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
    total = sums.to(backend.device(), copy=True)
    torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
    torch.distributed.all_reduce(total, group=parallel_state.get_pipeline_model_parallel_group())
    return total.cpu()
