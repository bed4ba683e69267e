"""The layers of a transformers model that put out logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLASSIFICATION_HEADS = ("classifier", "score", "classification_head")


def in_classification_head(name: str) -> bool:
    """True for a module or parameter of a classification head, by the names transformers gives them."""
    return name.split(".")[0] in CLASSIFICATION_HEADS


def output_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers of the language-model head or of the classification head."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (module is head or in_classification_head(name))
    ]
