"""``megatron inspect``: what a checkpoint holds, from its headers alone."""

from __future__ import annotations

from math import prod
from pathlib import Path

import click

from pipelines.megatron.checkpoint import in_order, read_config, read_tensors
from pipelines.megatron.flops import training_flops_per_token
from pipelines.megatron.spec import ExpertSpec, ModelSpec


@click.command(help="Print a checkpoint's shapes, parameters and FLOPs a token.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
def inspect(checkpoint: Path) -> None:
    """Print the description of a checkpoint."""
    click.echo("\n".join(describe(checkpoint)))


def describe(checkpoint: Path) -> list[str]:
    """Lines: every tensor with its shape, then the totals.

    Raises:
        RetraceError: not a whole checkpoint.
    """
    config = read_config(checkpoint)
    spec = ModelSpec.model_validate(config["model"])
    experts = ExpertSpec.model_validate(config["experts"]) if config["experts"] else None
    tensors = read_tensors(checkpoint)
    names = in_order(tensors)
    width = max(map(len, names))
    lines = [f"{name:<{width}}  {'x'.join(map(str, tensors.shape(name)))}" for name in names]
    flops = training_flops_per_token(spec, config["vocab_size"], experts)
    return [
        *lines,
        "",
        f"parameters           {sum(prod(tensors.shape(name)) for name in names):,}",
        f"vocabulary           {config['vocab_size']:,}",
        f"FLOPs a token        {flops:,} (forward and backward, sequences of {spec.seq_length})",
        f"tokens seen          {config.get('tokens_seen', 0):,}",
        f"FLOPs spent          {config.get('flops_spent', 0):,}",
        f"routing method       {(config.get('moe_method') or {}).get('name', 'none: dense')}",
    ]
