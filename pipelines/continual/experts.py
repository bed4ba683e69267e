"""Seeing into fused experts.

Mixtral's experts in transformers 5 are no linear layers but two parameters for all experts, gate_up_proj [E, 2I, H]
and down_proj [E, H, I] (E experts, I intermediate, H hidden), and one forward. To see what each expert's projections
put out, the instance's forward is replaced by the same computation, operation for operation, as transformers' eager
implementation (models/mixtral/modeling_mixtral.py), which models are loaded with: outputs and gradients stay equal bit
for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear, one_hot

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def is_fused_experts(module: nn.Module) -> bool:
    """True for experts of transformers 5 in Mixtral's layout: gated, without biases, rows first."""
    gate_up = getattr(module, "gate_up_proj", None)
    return (
        isinstance(gate_up, torch.nn.Parameter)
        and gate_up.dim() == 3
        and getattr(module, "has_gate", False)
        and not getattr(module, "has_bias", False)
        and not getattr(module, "is_transposed", False)
        and not getattr(module, "has_post_expert_norm", False)
        and getattr(module, "is_concatenated", True)
    )


def record_experts(experts: Any, record: Callable[[int, Tensor, Tensor, Tensor], None]) -> Callable[[], None]:
    """Call ``record(expert, token_T, gate_up_TR, down_TR)`` for every expert in every training forward pass.

    Args:
        experts: a module for which ``is_fused_experts`` holds, run by the eager implementation.
        record: gets the expert, the flat positions of its T tokens, and detached outputs [T, 2I] and [T, H], the latter
            before the router's weight, as a linear layer of its own would put them out.

    Returns:
        A function that puts the original forward back.
    """

    def forward(hidden_NH: Tensor, top_k_index_NK: Tensor, top_k_weights_NK: Tensor) -> Tensor:
        output_NH = torch.zeros_like(hidden_NH)
        with torch.no_grad():
            chosen_EKN = one_hot(top_k_index_NK, num_classes=experts.num_experts + 1).permute(2, 1, 0)
            hit_E = torch.greater(chosen_EKN.sum(dim=(-1, -2)), 0).nonzero()[:, 0].tolist()
        for expert in hit_E:
            if expert == experts.num_experts:
                continue
            place_T, token_T = torch.where(chosen_EKN[expert])
            gate_up_TR = linear(hidden_NH[token_T], experts.gate_up_proj[expert])
            gate_TI, up_TI = gate_up_TR.chunk(2, dim=-1)
            down_TH = linear(experts.act_fn(gate_TI) * up_TI, experts.down_proj[expert])
            record(expert, token_T, gate_up_TR.detach(), down_TH.detach())
            weighted_TH = down_TH * top_k_weights_NK[token_T, place_T, None]
            output_NH.index_add_(0, token_T, weighted_TH.to(output_NH.dtype))
        return output_NH

    experts.forward = forward
    return lambda: experts.__dict__.pop("forward", None)
