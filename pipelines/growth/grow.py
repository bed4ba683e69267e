"""``growth grow``: a model on disk to a larger one, streamed tensor by tensor, with its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.growth.certificate import certify
from pipelines.growth.protocol import declared, grow_masked
from pipelines.growth.slices import Shape
from pipelines.growth.source import Source, open_source, write_grown
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from pipelines.growth.protocol import GrowthMethod
    from pipelines.growth.spec import GrowSpec
    from pipelines.runs.job import Job


def grow(spec: GrowSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Grow a dense or mixture-of-experts model, ours or Hugging Face's. Tokens seen and FLOPs spent stay the base's.

    Raises:
        RetraceError: no whole model, one that the method cannot grow, or a method that does not preserve the function
            though it says so; nothing is left.
    """
    method: GrowthMethod = load_method("growth", spec.method)
    source = open_source(inputs["input"])
    base, target = source.shape, target_shape(method, source)
    size = 0

    def counted() -> Iterator[tuple[str, Tensor]]:
        nonlocal size
        with job.progress(target.model.num_layers, "grow", unit="layer") as bar:
            layer = ""
            for name, tensor in grow_masked(method, base.model, source.tensors, spec.seed):
                size += tensor.numel()
                yield name, tensor
                if name.startswith("decoder.layers.") and (here := name.split(".")[2]) != layer:
                    layer = here
                    bar.advance(1)

    write_grown(job.out, source, target, counted())
    job.record(**declared(method, base.model), num_parameters=size)
    final: dict[str, float | int | str] = {
        "num_parameters": size,
        "num_layers": target.model.num_layers,
        "hidden_size": target.model.hidden_size,
    }
    if spec.certify and source.moe_method not in (None, "topk"):
        job.say(f"no certificate: routers of method {source.moe_method} are not measured")
    elif spec.certify:
        stored = open_source(job.out).tensors
        certificate = certify(method, base, source.tensors, target, stored, spec.seed)
        job.record(certificate=certificate.facts())
        measured = certificate.checkpoint
        final |= {"logit_deviation": measured.relative_deviation, "loss_difference": measured.loss_difference}
    return final


def target_shape(method: GrowthMethod, source: Source) -> Shape:
    """Shape that a method grows a model to.

    Raises:
        RetraceError: the method cannot grow it.
    """
    base = source.shape
    return Shape(method.target(base.model), method.target_experts(base.experts) if base.experts else None)
