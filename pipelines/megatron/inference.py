"""A checkpoint as a function from tokens to logits, on one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.megatron import backend
from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.model import build_model
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pipelines.runs.verb import Execution


def load_for_inference(checkpoint: Path, execution: Execution) -> Callable[[Tensor], Tensor]:
    """Load a dense or mixture-of-experts checkpoint for scoring in float32.

    The router of a mixture is built by the method the checkpoint names, as it was for training.

    Args:
        execution: one process; says the device and the threads.

    Returns:
        tokens [B, S] -> logits [B, S, V], in evaluation mode and without gradients, on ``backend.device()``. Padding
        on the right changes nothing at the positions before it: attention is causal and no token is dropped.

    Raises:
        RetraceError: no whole checkpoint, an unknown method, or weights that do not fit its config.
    """
    config = read_config(checkpoint)
    experts = ExpertSpec.model_validate(config["experts"]) if config["experts"] else None
    backend.initialize(execution, experts)
    method = load_method("moe", config["moe_method"]) if config.get("moe_method") else None
    model = build_model(
        ModelSpec.model_validate(config["model"]),
        config["vocab_size"],
        experts,
        router_builder=method.router() if method else None,
        prepare=method.attach if method else None,
        initial=read_tensors(checkpoint),
    )
    model.eval()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def logits(tokens_BS: Tensor) -> Tensor:
        scores_BSV: Tensor = model(tokens_BS.to(backend.device()))
        return scores_BSV

    return logits
