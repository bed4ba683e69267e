"""What a model has cost and read before: how a run goes on from a checkpoint. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.data import TokenArtifact
    from pipelines.megatron.spec import ModelSpec


def continuation(config: dict[str, Any], model: ModelSpec, seed: int, name: str) -> dict[str, int]:
    """Arguments of ``train`` that put a run after the one that made a checkpoint.

    The run starts at the first sequence of the seed's order that the checkpoint has not seen, and counts its tokens
    and operations. A checkpoint of unknown history (an imported one) counts as having none.

    Args:
        config: config.json of the checkpoint.
        name: the input's name, for messages.

    Raises:
        RetraceError: another seed or sequence length orders the data otherwise, and sequences would be repeated.
    """
    if start := config.get("next_sequence", 0):
        if config["seed"] != seed:
            raise RetraceError(
                f"--{name} was trained with seed {config['seed']} and this job has seed {seed}: the data order follows "
                "the seed, so sequences it has seen would come again; use the same seed"
            )
        if config["model"]["seq_length"] != model.seq_length:
            raise RetraceError(
                f"--{name} was trained with seq_length {config['model']['seq_length']} and model.seq_length is "
                f"{model.seq_length}: sequences it has seen would come again, cut otherwise; make them equal"
            )
    return {
        "start_sequence": start,
        "tokens_offset": config.get("tokens_seen", 0),
        "flops_offset": config.get("flops_spent", 0),
    }


def check_vocabulary(config: dict[str, Any], tokens: TokenArtifact, name: str) -> None:
    """Refuse tokens of another tokenizer than a checkpoint's.

    Raises:
        RetraceError: names both.
    """
    if config["vocab_size"] != tokens.vocab_size:
        raise RetraceError(
            f"--{name} has a vocabulary of {config['vocab_size']} and {tokens.path} one of {tokens.vocab_size}: "
            "tokenize the corpus with the tokenizer of the checkpoint"
        )
    theirs = config.get("tokenizer_key")
    if theirs is not None and tokens.tokenizer_key is not None and theirs != tokens.tokenizer_key:
        raise RetraceError(
            f"--{name} was trained with another tokenizer than that of {tokens.path}: "
            "tokenize the corpus with the tokenizer of the checkpoint"
        )
