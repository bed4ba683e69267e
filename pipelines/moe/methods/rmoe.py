"""Layerwise recurrent router (RMoE): a GRU carries each token's routing state from layer to layer.

Paper: Layerwise Recurrent Router for Mixture-of-Experts (arXiv 2408.06793), eq 2-6:

    x'_i = x_i P_i^T        P_i [p, h], one per layer
    h_i = GRU(x'_i, h_{i-1})    one cell for all layers; h_0 = 0; one state per token, passed over depth
    logits_i = h_i G_i^T    G_i [N, p], one per layer

then softmax, top k and renormalisation as in ``topk``. Nothing passes between positions of a sequence.

Deviations: the projections and the cell are computed in float32 also under bfloat16 autocast (the released code
leaves that out); the cell has the biases of the released code, which the paper's text omits, and the standard
initialisation U(-1/sqrt(p), 1/sqrt(p)) (inferred from the name of a released checkpoint); the auxiliary loss is
Megatron's, per layer (see ``topk``), not Hugging Face's over all layers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec
    from pipelines.moe.protocol import RouterBuilder


@dataclass(frozen=True)
class RMoE:
    """Routers that share a recurrent cell.

    Attributes:
        recurrent_size: width p of the state; the paper uses 128.
        cell: ``gru``, or ``identity``, which makes the router linear with W = G_i P_i (the no-op).
        pass_state: False starts every layer from h_0 (the paper's ablation "NP").
    """

    requires: ClassVar[tuple[str, ...]] = ()
    supports_pipeline: ClassVar[bool] = False
    exports_as_mixtral: ClassVar[bool] = False

    recurrent_size: int = 128
    cell: Literal["gru", "identity"] = "gru"
    pass_state: bool = True

    def router(self) -> RouterBuilder:
        from functools import partial

        from pipelines.megatron.recurrent_router import RecurrentRouter

        return partial(RecurrentRouter, recurrent_size=self.recurrent_size)

    def attach(self, model: Any) -> None:
        from pipelines.megatron.recurrent_router import attach_recurrence

        attach_recurrence(model, self.recurrent_size, self.cell, self.pass_state)

    def num_extra_parameters(self, model: ModelSpec, experts: ExpertSpec) -> int:
        p, h, n = self.recurrent_size, model.hidden_size, experts.num_moe_experts
        cell = 6 * p * p + 6 * p if self.cell == "gru" else 0
        return model.num_layers * (h * p + p * n - h * n) + cell

    def extra_flops_per_token(self, model: ModelSpec, experts: ExpertSpec) -> int:
        p, h, n = self.recurrent_size, model.hidden_size, experts.num_moe_experts
        cell = 6 * p * p if self.cell == "gru" else 0
        return model.num_layers * 2 * (h * p + cell + p * n - h * n)
