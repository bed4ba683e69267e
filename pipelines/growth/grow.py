"""``growth grow``: a checkpoint to a larger one, streamed tensor by tensor, with its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.growth.certificate import certify
from pipelines.growth.protocol import declared, grow_masked
from pipelines.growth.slices import Shape
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
        RetraceError: no checkpoint, one that the method cannot grow, or a method that does not preserve the function
            though it says so.
    """
    method: GrowthMethod = load_method("growth", spec.method)
    config = read_config(inputs["input"])
    base = _shape(config)
    target = Shape(method.target(base.model), base.experts and method.target_experts(base.experts))
    size = 0

    def counted() -> Iterator[tuple[str, Tensor]]:
        nonlocal size
        for name, tensor in grow_masked(method, base.model, read_tensors(inputs["input"]), spec.seed):
            size += tensor.numel()
            yield name, tensor

    grown = {
        **config,
        "model": target.model.model_dump(mode="json"),
        "experts": target.experts and target.experts.model_dump(mode="json"),
    }
    write_checkpoint(job.out, grown, counted())
    job.record(**declared(method, base.model), num_parameters=size)
    final: dict[str, float | int | str] = {
        "num_parameters": size,
        "num_layers": target.model.num_layers,
        "hidden_size": target.model.hidden_size,
    }
    if spec.certify and (moe_method := (config.get("moe_method") or {}).get("name", "topk")) != "topk":
        job.say(f"no certificate: routers of method {moe_method} are not measured")
    elif spec.certify:
        stored = read_tensors(job.out)
        certificate = certify(method, base, read_tensors(inputs["input"]), target, stored, spec.seed)
        job.record(certificate=certificate.facts())
        measured = certificate.checkpoint
        final |= {"logit_deviation": measured.relative_deviation, "loss_difference": measured.loss_difference}
    return final


def _shape(config: dict[str, Any]) -> Shape:
    experts = config["experts"]
    return Shape(ModelSpec.model_validate(config["model"]), experts and ExpertSpec.model_validate(experts))
