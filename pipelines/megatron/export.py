"""Checkpoints to Hugging Face folders and back: exact, streamed from disk, and without running transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.megatron.checkpoint import read_config, read_tensors, write_checkpoint
from pipelines.megatron.flops import count_parameters
from pipelines.megatron.huggingface import (
    check_exportable,
    huggingface_config,
    model_spec_of,
    to_huggingface,
)
from pipelines.megatron.huggingface_folder import (
    GlobalTensors,
    HuggingFaceTensors,
    read_huggingface_config,
    save_shards,
)
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import input_key
from pipelines.runs.methods import load_method
from pipelines.tokenizer.folder import FILES
from pipelines.tokenizer.loading import load_tokenizer

if TYPE_CHECKING:
    from pipelines.runs.job import Job
    from pipelines.runs.verb import Spec


def export(spec: Spec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Write a checkpoint as LlamaForCausalLM or MixtralForCausalLM, float32, with its tokenizer beside it.

    Raises:
        RetraceError: no checkpoint, routers that Mixtral does not have, or another tokenizer than it was trained with.
    """
    config = read_config(inputs["checkpoint"])
    model = ModelSpec.model_validate(config["model"])
    experts = ExpertSpec.model_validate(config["experts"]) if config["experts"] else None
    tensors = read_tensors(inputs["checkpoint"], framework="numpy")
    _check_routers(config, experts)
    check_exportable(tensors)
    eos_token_id = _check_tokenizer(inputs["tokenizer"], config)

    for name in FILES:
        if (inputs["tokenizer"] / name).is_file():
            shutil.copyfile(inputs["tokenizer"] / name, job.out / name)
    theirs = huggingface_config(model, experts, config["vocab_size"], eos_token_id)
    _write_json(job.out / "config.json", theirs)
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eos_token_id)
    _write_json(job.out / "generation_config.json", tokens)
    save_shards(job.out, to_huggingface(tensors, model))
    return {
        "architecture": theirs["architectures"][0],
        "num_parameters": count_parameters(model, config["vocab_size"], experts),
        "vocab_size": config["vocab_size"],
    }


def import_(spec: Spec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Read a Hugging Face Llama or Mixtral folder into a checkpoint. Its cost is unknown and counts as zero.

    Raises:
        RetraceError: another architecture, a feature our models lack, or a folder without safetensors.
    """
    source = inputs["model"]
    theirs = read_huggingface_config(source)
    model_values, expert_values = model_spec_of(theirs)
    model = ModelSpec.model_validate(model_values)
    experts = ExpertSpec.model_validate(expert_values) if expert_values else None
    tokenizer = inputs.get("tokenizer")
    config = {
        "model": model.model_dump(),
        "experts": experts and experts.model_dump(),
        "moe_method": {"name": "topk"} if experts else None,
        "vocab_size": theirs["vocab_size"],
        "tokenizer_key": input_key(tokenizer) if tokenizer else None,
        "tokens_seen": 0,
        "flops_spent": 0,
    }
    write_checkpoint(job.out, config, GlobalTensors(HuggingFaceTensors(source), model, experts, theirs["vocab_size"]))
    return {
        "num_parameters": count_parameters(model, theirs["vocab_size"], experts),
        "vocab_size": theirs["vocab_size"],
    }


def _check_routers(config: dict[str, Any], experts: ExpertSpec | None) -> None:
    if experts is None:
        return
    method = config.get("moe_method") or {"name": "topk"}
    if not load_method("moe", method).exports_as_mixtral:
        raise RetraceError(
            f"--checkpoint: transformers has no class with {method['name']} routers, so the model cannot be exported; "
            "evaluate the checkpoint itself, or train with method topk"
        )
    if experts.moe_router_topk == 1:
        raise RetraceError(
            "--checkpoint: moe_router_topk is 1, and Mixtral would weigh the one expert by 1 instead of its "
            "probability: the export would not be exact; train with moe_router_topk 2 or more"
        )


def _check_tokenizer(folder: Path, config: dict[str, Any]) -> int:
    """The end-of-document id of the tokenizer the checkpoint was trained with."""
    tokenizer = load_tokenizer(folder)
    trained_with = config.get("tokenizer_key")
    if trained_with is not None and input_key(folder) != trained_with:
        raise RetraceError(
            f"--tokenizer {folder} is not the one the checkpoint was trained with "
            f"({input_key(folder)[:12]} instead of {trained_with[:12]}): give that one"
        )
    if tokenizer.vocab_size != config["vocab_size"]:
        raise RetraceError(
            f"--tokenizer {folder} has {tokenizer.vocab_size} tokens and the checkpoint {config['vocab_size']}: "
            "give the tokenizer it was trained with"
        )
    eod_id: int = tokenizer.eod_id
    return eod_id


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
