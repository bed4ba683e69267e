"""``growth grow``: a checkpoint to a larger one, streamed tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.growth.protocol import declared
from pipelines.megatron.checkpoint import read_config, read_tensors, write_checkpoint
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from pipelines.growth.protocol import GrowthMethod
    from pipelines.growth.spec import GrowSpec
    from pipelines.runs.job import Job


def grow(spec: GrowSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Grow a dense or mixture-of-experts checkpoint. Tokens seen and FLOPs spent stay the base's.

    Raises:
        RetraceError: no checkpoint, or one that the method cannot grow.
    """
    method: GrowthMethod = load_method("growth", spec.method)
    config = read_config(inputs["input"])
    base = ModelSpec.model_validate(config["model"])
    target = method.target(base)
    experts = config["experts"]
    if experts is not None:
        experts = method.target_experts(ExpertSpec.model_validate(experts)).model_dump(mode="json")
    size = 0

    def counted() -> Iterator[tuple[str, Tensor]]:
        nonlocal size
        for name, tensor in method.grow(base, read_tensors(inputs["input"]), spec.seed):
            size += tensor.numel()
            yield name, tensor

    write_checkpoint(job.out, {**config, "model": target.model_dump(mode="json"), "experts": experts}, counted())
    job.record(**declared(method, base), num_parameters=size)
    return {"num_parameters": size, "num_layers": target.num_layers, "hidden_size": target.hidden_size}
