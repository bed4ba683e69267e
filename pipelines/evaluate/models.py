"""From a model's folder to something the harness can ask: Hugging Face models and our checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.megatron.checkpoint import FORMAT, read_config
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD, input_key

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

    from pipelines.runs.verb import Execution


def load_lm(
    model: Path, tokenizer: Path | None, *, execution: Execution, batch_size: int, max_length: int | None
) -> TemplateLM:
    """Load a model for scoring.

    Args:
        model: a Hugging Face folder, a checkpoint, or an artifact with one of them in ``model/``.
        tokenizer: default: the tokenizer files beside the weights.
        execution: one process; says the device and the threads.
        batch_size: sequences a forward pass.
        max_length: tokens a forward pass; default: what the model was made for.

    Raises:
        RetraceError: neither kind of model, no tokenizer or a foreign one, or ``max_length`` beyond the model's.
    """
    folder, config = find_model(model)
    files = tokenizer or folder
    if not (files / "tokenizer.json").is_file():
        where = f"{files} has no tokenizer.json"
        raise RetraceError(f"{where}: give --tokenizer a tokenizer artifact")
    checkpoint = config.get("format") == FORMAT
    longest = read_config(folder)["model"]["seq_length"] if checkpoint else config.get("max_position_embeddings")
    if max_length is not None and longest is not None and max_length > longest:
        raise RetraceError(f"max_length {max_length} exceeds the {longest} positions of {folder}: lower max_length")
    length: Any = max_length or longest
    # Each kind imports much that the other does not need.
    if checkpoint:
        _check_tokenizer_key(config, files, folder)
        from pipelines.evaluate.megatron_lm import load_megatron_lm

        return load_megatron_lm(folder, files, execution=execution, batch_size=batch_size, max_length=length)
    if not list(folder.glob("*.safetensors")):
        raise RetraceError(f"{folder} has no .safetensors file: export the model again")
    from pipelines.evaluate.hugging_face_lm import load_hugging_face_lm

    return load_hugging_face_lm(folder, files, execution=execution, batch_size=batch_size, max_length=length)


def find_model(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that holds the weights, and its config.json.

    Raises:
        RetraceError: neither the folder nor its ``model/`` is a model.
    """
    for folder in (path, path / "model"):
        file = folder / "config.json"
        if not file.is_file():
            continue
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise RetraceError(f"{file} is not JSON: export the model again") from None
        if isinstance(config, dict) and (config.get("format") == FORMAT or "model_type" in config):
            return folder, config
        raise RetraceError(
            f"{file} is neither a Hugging Face config (no model_type) nor a checkpoint of format {FORMAT}: "
            "give --model one of them"
        )
    raise RetraceError(
        f"{path} has no config.json, nor has its model/: give --model a Hugging Face folder or checkpoint"
    )


def _check_tokenizer_key(config: dict[str, Any], tokenizer: Path, model: Path) -> None:
    """A checkpoint's token ids mean nothing under another tokenizer."""
    key = config.get("tokenizer_key")
    if key and (tokenizer / RUN_RECORD).is_file() and input_key(tokenizer) != key:
        raise RetraceError(
            f"--tokenizer: {tokenizer} is not the tokenizer {model} was trained with (tokenizer_key {key[:12]}...)"
        )
