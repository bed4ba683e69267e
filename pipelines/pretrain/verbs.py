"""Verbs of the pretrain stage."""

from __future__ import annotations

from pipelines.megatron.layout import check_layout
from pipelines.pretrain.spec import TrainSpec
from pipelines.runs.verb import Execution, Verb


def check(spec: TrainSpec, execution: Execution) -> None:
    """Refuse a layout that does not fit the model or the batch."""
    check_layout(execution, None, spec.model, spec.training)


VERBS = {
    "train": Verb(
        help="Train a LLaMA-style model from scratch, its linear layers dense or in factors.",
        implementation="pipelines.pretrain.training:train",
        spec=TrainSpec,
        inputs={"tokens": "folder made by `tokenizer tokenize`"},
        packages=("torch", "megatron-core"),
        check=check,
    ),
}
