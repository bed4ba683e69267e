"""Hugging Face model folders: load, adapt with LoRA, save.

The class is the one named in config.json, looked up in transformers itself: no code of the folder is run.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from pipelines.continual.families.causal import CausalFamily
from pipelines.continual.families.classification import ClassificationFamily
from pipelines.continual.families.seq2seq import Seq2SeqFamily
from pipelines.continual.output_layers import in_classification_head, output_layers
from pipelines.continual.prompts import Family as FamilyName
from pipelines.continual.prompts import padding_token
from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.loading import load_hf_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipelines.continual.families.batch import Family
    from pipelines.continual.prompts import EncodedTask
    from pipelines.continual.spec import FinetuneSpec

ENDINGS: dict[str, FamilyName] = {
    "ForCausalLM": "causal",
    "ForConditionalGeneration": "seq2seq",
    "ForSequenceClassification": "classification",
    "ForMaskedLM": "classification",
}
FAMILIES: dict[FamilyName, type[Family]] = {
    "causal": CausalFamily,
    "seq2seq": Seq2SeqFamily,
    "classification": ClassificationFamily,
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "scaffold.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True)
class Architecture:
    """What config.json says of a model: its class in transformers and how tasks are posed to it."""

    class_name: str
    family: FamilyName


def read_architecture(folder: Path) -> Architecture:
    """Read the architecture of a model folder.

    Raises:
        RetraceError: no config.json, or a class whose tasks cannot be posed.
    """
    path = folder / "config.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RetraceError(
            f'{path}: no such file, or without "architectures"; --model takes a Hugging Face folder'
        ) from None
    name = str(names[0]) if names else "none"
    for ending, family in ENDINGS.items():
        if name.endswith(ending) and hasattr(transformers, name):
            return Architecture(
                name.removesuffix("ForMaskedLM") + "ForSequenceClassification" if ending == "ForMaskedLM" else name,
                family,
            )
    raise RetraceError(f"{path}: architecture {name} is not a transformers class that ends in {', '.join(ENDINGS)}")


def load_model(folder: Path, architecture: Architecture, labels: list[str], device: torch.device) -> PreTrainedModel:
    """Load a model in float32; a classification head is made anew for ``labels`` from the global random state.

    Fused experts compute with transformers' eager implementation, the one whose intermediate outputs a method can see,
    so that every method computes the same function bit for bit.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    extra: dict[str, Any] = {}
    if architecture.family == "classification":
        # A new head for every sequence: the folder's own head, if any, was made for other labels.
        extra = {"num_labels": len(labels), "ignore_mismatched_sizes": True}
    model = getattr(transformers, architecture.class_name).from_pretrained(folder, dtype=torch.float32, **extra)
    if architecture.family == "classification":
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model.to(device)


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder: ours where it has scaffolds, any of ``tokenizers``' otherwise; no code is run.

    Raises:
        RetraceError: tokenizer.json is missing or damaged.
    """
    if (folder / "scaffold.json").is_file():
        return load_hf_tokenizer(folder)
    if not (folder / "tokenizer.json").is_file():
        raise RetraceError(f"{folder / 'tokenizer.json'}: no such file; export the model with its tokenizer")
    try:
        return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as broken:  # tokenizers raises bare Exception
        raise RetraceError(f"{folder / 'tokenizer.json'}: damaged ({str(broken)[:120]}); export it again") from None


def check_fit(model: PreTrainedModel, tasks: list[EncodedTask], max_length: int) -> None:
    """Refuse token ids that the model does not embed, and sequences longer than its positions."""
    embedded = model.get_input_embeddings().weight.shape[0]
    prompts = [prompt for task in tasks for prompt, _ in (*task.train, *task.test)]
    largest = max(max(ids) for ids in (*prompts, *(option for task in tasks for option in task.options)))
    if largest >= embedded:
        raise RetraceError(f"the tokenizer gives id {largest}, the model embeds {embedded}: export them together")
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and "roberta" in model.config.model_type:
        limit -= model.config.pad_token_id + 1
    if limit is not None and max_length > limit:
        raise RetraceError(f"max_length {max_length} exceeds the {limit} positions of the model: lower it")


def make_family(architecture: Architecture, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Family:
    """How tasks are posed to this model."""
    return FAMILIES[architecture.family](model, padding_token(tokenizer))  # type: ignore[call-arg]


def add_lora(model: PreTrainedModel, spec: FinetuneSpec) -> Any:
    """Freeze the model, put one LoRA adapter (A from the global random state, B zero) on its linear layers.

    A new classification head stays trainable. Fused experts are not linear layers and get no adapter.

    Returns:
        peft's wrapper; ``model`` itself now holds the adapted layers and is what runs.

    Raises:
        RetraceError: ``lora_targets`` names no linear layer.
    """
    from peft import LoraConfig, get_peft_model

    outputs = set(output_layers(model))
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for target in spec.lora_targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rsplit(".", 1)[-1] for name in linear if name not in outputs})
            raise RetraceError(f"lora_targets: no linear layer is named {target}; the model has {', '.join(known)}")
    wanted = [
        name
        for name in linear
        if any(name == target or name.endswith(f".{target}") for target in spec.lora_targets)
        or (not spec.lora_targets and name not in outputs)
    ]
    config = LoraConfig(
        r=spec.lora_rank, lora_alpha=spec.lora_alpha, lora_dropout=spec.lora_dropout, target_modules=wanted
    )
    with warnings.catch_warnings():
        # peft 0.21 still asks transformers for a name that it has since changed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        adapted = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if in_classification_head(name):
            parameter.requires_grad_(True)
    return adapted


def save_model(model: PreTrainedModel, source: Path, out: Path) -> None:
    """Write the model as a Hugging Face folder with the tokenizer's files of ``source``."""
    model.save_pretrained(out)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
