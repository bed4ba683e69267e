"""``growth coalesce``, ``growth decoalesce`` and ``growth interpolate``: the steps of a V-cycle between trainings.

A cycle trains the large model a little, coalesces it, trains the small one, de-coalesces that, interpolates it with
the large model it began with, and trains on. Every training is a ``growth train`` whose method is stack with
growth_factor 1 (or any other growth), which counts what has been spent and reads on where the model before ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.growth.levels import coalesce, coalesced_shape, decoalesce, decoalesced_shape, interpolate
from pipelines.growth.source import Source, open_source, write_grown
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from pipelines.growth.slices import Shape
    from pipelines.growth.spec import InterpolateSpec, LevelSpec
    from pipelines.runs.job import Job

    Final = dict[str, float | int | str]


def coalesce_verb(spec: LevelSpec, inputs: dict[str, Path], job: Job) -> Final:
    """Make a model smaller: the mean of each group of layers and units.

    Raises:
        RetraceError: no whole model, or one whose sizes the factors do not divide.
    """
    source = _open(inputs["input"], "input")
    target = coalesced_shape(source.shape, spec.depth, spec.width)
    return _write(job, source, target, coalesce(source.tensors, source.shape, spec.depth, spec.width))


def decoalesce_verb(spec: LevelSpec, inputs: dict[str, Path], job: Job) -> Final:
    """Make a coalesced model large again: copies of layers, and units split in equal shares.

    Raises:
        RetraceError: no whole model.
    """
    source = _open(inputs["input"], "input")
    target = decoalesced_shape(source.shape, spec.depth, spec.width)
    return _write(job, source, target, decoalesce(source.tensors, source.shape, spec.depth, spec.width))


def interpolate_verb(spec: InterpolateSpec, inputs: dict[str, Path], job: Job) -> Final:
    """Mix the large model as it was coalesced with the de-coalesced one. The latter's ledger counts for both.

    Raises:
        RetraceError: models of two shapes, or a large model that has been trained since: the mixture would owe
            tokens that nobody counts (the released example does that).
    """
    before, after = _open(inputs["before"], "before"), _open(inputs["after"], "after")
    if (before.kind, before.shape) != (after.kind, after.shape):
        raise RetraceError("--before and --after are of two shapes or kinds: give the same model, before and after")
    seen = [source.config.get("tokens_seen", 0) for source in (before, after)]
    if seen[0] > seen[1]:
        raise RetraceError(
            f"--before has seen {seen[0]} tokens and --after counts {seen[1]}: what --before has learnt since it was "
            "coalesced would come for nothing; give the checkpoint that was coalesced"
        )
    return _write(job, after, after.shape, interpolate(before.tensors, after.tensors, spec.interpolation_coeff))


def _open(path: Path, name: str) -> Source:
    source = open_source(path)
    if source.moe_method not in (None, "topk"):
        raise RetraceError(f"--{name} has routers of method {source.moe_method}, which cannot be coalesced")
    return source


def _write(job: Job, source: Source, target: Shape, tensors: Iterable[tuple[str, Tensor]]) -> Final:
    size = 0

    def counted() -> Iterator[tuple[str, Tensor]]:
        nonlocal size
        for name, tensor in tensors:
            size += tensor.numel()
            yield name, tensor

    write_grown(job.out, source, target, counted())
    job.record(num_parameters=size)
    return {"num_parameters": size, "num_layers": target.model.num_layers, "hidden_size": target.model.hidden_size}
