"""Routers that share a recurrent cell over depth, and the carrier of its state.

The model owns one :class:`DepthRecurrence`; every layer's router holds a plain reference to it. A forward pass of
a micro-batch runs the layers in order on one process, so the state of the layer before is the one just written;
that order is checked at every step, and a pass that was broken off cannot leak into the next one, because the
first layer always starts from zeros. Pipeline stages and activation recomputation would break the order: the
first is refused when a job is planned, the second here.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pipelines.megatron.router import BaseRouter

# Shape suffixes: T tokens, H hidden size, P recurrent size, N experts.


class DepthRecurrence(torch.nn.Module):
    """The cell that all layers share and the state it hands from one layer to the next.

    Args:
        recurrent_size: width of the state.
        cell: ``gru`` (torch.nn.GRUCell), or ``identity``: the state is the projected token.
        pass_state: False starts every layer from zeros.
    """

    def __init__(self, recurrent_size: int, cell: str = "gru", pass_state: bool = True) -> None:
        super().__init__()
        self.recurrent_size = recurrent_size
        self.pass_state = pass_state
        self.cell = torch.nn.GRUCell(recurrent_size, recurrent_size) if cell == "gru" else None
        bound = 1 / math.sqrt(recurrent_size)
        for parameter in self.parameters():
            parameter.initialise = lambda tensor, generator: tensor.uniform_(-bound, bound, generator=generator)
        self._state_TP: torch.Tensor | None = None
        self._layer = 0

    def step(self, layer: int, last_layer: int, projected_TP: torch.Tensor) -> torch.Tensor:
        """State [T, P] after ``layer`` (counted from 1), from the state that layer - 1 left.

        Raises:
            RuntimeError: layer - 1 was not the layer before, or worked on other tokens.
        """
        if self.cell is None:
            return projected_TP
        if layer == 1 or not self.pass_state:
            before_TP = torch.zeros_like(projected_TP)
        elif self._layer != layer - 1 or self._state_TP is None or self._state_TP.shape != projected_TP.shape:
            raise RuntimeError(
                f"the recurrent router of layer {layer} ran after layer {self._layer}: a forward pass must run every "
                "layer once and in order (no activation recomputation, no interleaved pipeline)"
            )
        else:
            before_TP = self._state_TP
        state_TP: torch.Tensor = self.cell(projected_TP, before_TP)
        # Dropped after the last layer, so that the graph of a finished pass is freed.
        self._state_TP = state_TP if layer < last_layer else None
        self._layer = layer
        return state_TP


class RecurrentRouter(BaseRouter):
    """Top-k router whose logits are G_i h_i, with h_i the shared recurrence's state at this layer.

    ``projector`` is P_i [P, H] and ``gate`` is G_i [N, P]. Routing, auxiliary loss and dispatch are the base's.
    """

    def __init__(self, config: Any, pg_collection: Any = None, *, recurrent_size: int) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        if config.recompute_granularity is not None:
            raise ValueError("recurrent routers do not work with activation recomputation: leave it off")
        del self.weight
        self.projector = torch.nn.Parameter(torch.empty(recurrent_size, config.hidden_size))
        self.gate = torch.nn.Parameter(torch.empty(config.num_moe_experts, recurrent_size))
        self._recurrence: tuple[DepthRecurrence, ...] = ()

    def share(self, recurrence: DepthRecurrence) -> None:
        """Use the model's recurrence. Kept in a tuple: its parameters belong to the model, once."""
        self._recurrence = (recurrence,)

    def gating(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [..., N] of hidden states [..., H], in float32 also under autocast."""
        (recurrence,) = self._recurrence
        projected_TP = self.linear(input.flatten(0, -2), self.projector)
        with torch.autocast(input.device.type, enabled=False):
            state_TP = recurrence.step(self.layer_number, self.config.num_layers, projected_TP)
        return self.linear(state_TP, self.gate).view(*input.shape[:-1], -1)


def attach_recurrence(model: Any, recurrent_size: int, cell: str, pass_state: bool) -> None:
    """Give a GPTModel its recurrence, as ``router_recurrence``, and every router the way to it."""
    model.router_recurrence = DepthRecurrence(recurrent_size, cell, pass_state)
    for layer in model.decoder.layers:
        layer.mlp.router.share(model.router_recurrence)
