"""A checkpoint as the model it was trained as: in factors, where it has some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.megatron.checkpoint import FACTORS_INDEX, read_config, read_factors, read_tensors
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipelines.megatron.model import Gpt


def load_as_trained(checkpoint: Path) -> Gpt:
    """Build the model of a ``pretrain`` checkpoint with the parameters that were trained, supports included.

    The process groups must be initialised (``backend.initialize``).

    Raises:
        RetraceError: no whole checkpoint, or one whose factors do not fit its config.
    """
    from pipelines.megatron.factored import set_supports
    from pipelines.megatron.model import build_model

    config = read_config(checkpoint)
    spec, seed = ModelSpec.model_validate(config["model"]), config["seed"]
    method = load_method("pretrain", config.get("pretrain_method") or "dense")
    factors: Mapping[str, Tensor] = read_factors(checkpoint) if (checkpoint / FACTORS_INDEX).is_file() else {}

    def prepare(model: Gpt) -> None:
        method.attach(model, spec, seed)
        set_supports(model, factors)

    tensors = {**read_tensors(checkpoint), **factors}
    return build_model(spec, config["vocab_size"], seed=seed, prepare=prepare, initial=tensors)
