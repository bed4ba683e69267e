"""``growth plan``: what a growth would give, from the headers of the base's files alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.growth.spec import GrowSpec
from pipelines.runs.methods import load_method
from pipelines.runs.verb import parse_spec

if TYPE_CHECKING:
    from pipelines.growth.protocol import GrowthMethod
    from pipelines.growth.source import Source

CERTIFIED_BYTES = 40
"""A number of the largest tensor while it is certified: weight and gradient in float64, and the steps between."""

TRAINED_BYTES = 16
"""A parameter in training: weight, gradient and AdamW's two moments in float32."""


@click.command()
@click.option("--spec", required=True, help="as of `growth grow`: JSON or @FILE")
@click.option("--input", "folder", required=True, type=click.Path(path_type=Path), help="the base model's folder")
def plan(spec: str, folder: Path) -> None:
    """Print what `growth grow` would make of a model, without reading or writing a weight.

    Parameters, FLOPs, connection rate, what is preserved, and memory; a growth that makes no sense is refused as
    `growth grow` would refuse it.

    \b
    python -m pipelines growth plan --spec '{"method": {"name": "stack", "growth_factor": 4}}' --input MODEL
    """
    from pipelines.growth.source import open_source

    parsed = parse_spec(GrowSpec, spec, "--spec")
    assert isinstance(parsed, GrowSpec)
    for name, value in describe(load_method("growth", parsed.method), parsed.method["name"], open_source(folder)):
        click.echo(f"{name:<24}{value}")


def describe(method: GrowthMethod, name: str, source: Source) -> list[tuple[str, str]]:
    """(what, how much) of growing a model.

    Raises:
        RetraceError: the method cannot grow it.
    """
    from pipelines.growth.grow import target_shape
    from pipelines.megatron.flops import forward_flops_per_token, parameter_shapes, training_flops_per_token

    base, target = source.shape, target_shape(method, source)
    shapes = [parameter_shapes(each.model, source.vocab_size, each.experts) for each in (base, target)]
    sizes = [sum(math.prod(shape) for shape in each.values()) for each in shapes]
    outside = [sum(math.prod(shape) for n, shape in each.items() if ".layers." not in n) for each in shapes]
    forward, training = (
        [flops(each.model, source.vocab_size, each.experts) for each in (base, target)]
        for flops in (forward_flops_per_token, training_flops_per_token)
    )
    largest = max(math.prod(shape) for each in shapes for shape in each.values())
    stored = [size * source.bytes_a_number for size in sizes]
    lines = [
        ("method", f"{name} (grows {method.axis})"),
        ("input", f"{source.path} ({source.kind}, {source.dtype.lower()})"),
        *_changes(base.model.model_dump(), target.model.model_dump()),
    ]
    if base.experts and target.experts:
        lines += _changes(base.experts.model_dump(), target.experts.model_dump())
    lines += [
        ("parameters", f"{sizes[0]:,} -> {sizes[1]:,} (x {sizes[1] / sizes[0]:.3g})"),
        ("  outside the layers", f"{outside[0]:,} -> {outside[1]:,}"),
        ("forward FLOPs a token", f"{forward[0]:.4g} -> {forward[1]:.4g} (x {forward[1] / forward[0]:.3g})"),
        ("training FLOPs a token", f"{training[0]:.4g} -> {training[1]:.4g}"),
        *((key, _short(value)) for key, value in method.facts(base.model).items()),
        ("preserves the function", _preserved(method, source)),
        ("weights on disk", f"{_size(stored[0])} -> {_size(stored[1])}"),
        ("memory to grow", f"about {_size(2 * largest * source.bytes_a_number + 2**27)}, whatever the model's depth"),
        ("memory to certify", f"about {_size(CERTIFIED_BYTES * largest + 2**27)}, likewise"),
        ("memory to train", f"{_size(sizes[0] * TRAINED_BYTES)} -> {_size(sizes[1] * TRAINED_BYTES)} and activations"),
    ]
    return lines


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, f"{before[key]} -> {after[key]}") for key in before if before[key] != after[key]]


def _preserved(method: GrowthMethod, source: Source) -> str:
    declared = method.preserves(source.shape.model)
    words = {"exact": "exactly", "exact_if": "exactly, ", "none": "no: "}[declared.kind]
    return f"{words}{declared.condition} (declared; `growth grow` measures it)"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 24:
        return f"{' '.join(map(str, value[:20]))} ... ({len(value)})"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
