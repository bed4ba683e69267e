"""``growth grow``: a model on disk to a larger one, streamed tensor by tensor, with its certificate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.growth.certificate import certify
from pipelines.growth.learning import LearnedGrowthMethod, learn, learning_cost
from pipelines.growth.protocol import declared, grow_masked
from pipelines.growth.slices import Shape
from pipelines.growth.source import Source, open_source, write_grown
from pipelines.megatron.data import TrainingWindows, open_tokens
from pipelines.megatron.ledger import check_vocabulary
from pipelines.runs.errors import RetraceError
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
    if isinstance(method, LearnedGrowthMethod):
        method, source = _learned(method, source, target, inputs["tokens"], spec.seed, job)
    elif inputs.get("tokens") is not None:
        raise RetraceError(f"--tokens: method {spec.method['name']} learns nothing from text; leave it out")
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
        final |= certificate.metrics()
    return final


def _learned(
    method: LearnedGrowthMethod, source: Source, target: Shape, tokens: Path, seed: int, job: Job
) -> tuple[GrowthMethod, Source]:
    """The method with the map it has learnt, and the source with what that has cost in its ledger."""
    if source.moe_method not in (None, "topk"):
        raise RetraceError(f"--input has routers of method {source.moe_method}: growth is not learnt for these")
    config, artifact = source.config, open_tokens(tokens)
    check_vocabulary(config, artifact, "input")
    # After what the base has read, in its own order.
    start, order = config.get("next_sequence", 0), config.get("seed", seed)
    windows = TrainingWindows(artifact.split("train").tokens, target.model.seq_length, order, start)
    learned = learn(method, source.shape, target, source.tensors, windows.sequences, seed, job)
    cost = learning_cost(method, source.shape, target, artifact.vocab_size)
    job.record(learning_tokens=cost.tokens, learning_flops=cost.flops)
    if source.kind == "huggingface":
        return learned, source
    spent = {
        "tokens_seen": config.get("tokens_seen", 0) + cost.tokens,
        "flops_spent": config.get("flops_spent", 0) + cost.flops,
        "next_sequence": start + cost.num_sequences,
        "seed": order,
    }
    return learned, replace(source, config={**config, **spent})


def target_shape(method: GrowthMethod, source: Source) -> Shape:
    """Shape that a method grows a model to.

    Raises:
        RetraceError: the method cannot grow it.
    """
    base = source.shape
    return Shape(method.target(base.model), method.target_experts(base.experts) if base.experts else None)
