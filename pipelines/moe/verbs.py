"""Verbs of the moe stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.megatron.layout import check_layout
from pipelines.moe.spec import MoESpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method
from pipelines.runs.verb import Execution, Verb

if TYPE_CHECKING:
    from pipelines.moe.protocol import MoEMethod


def check(spec: MoESpec, execution: Execution) -> None:
    """Refuse a layout that fits neither the model nor the method."""
    check_layout(execution, spec.experts, spec.model, spec.training, spec.micro_batch_size)
    method: MoEMethod = load_method("moe", spec.method)
    if execution.pipeline_model_parallel_size > 1 and not method.supports_pipeline:
        raise RetraceError(
            f"--exec pipeline_model_parallel_size {execution.pipeline_model_parallel_size}: method "
            f"{spec.method['name']} passes state between layers, which must lie on one stage; set it to 1 and use "
            "expert or data parallelism"
        )


VERBS = {
    "train": Verb(
        help="Train a mixture-of-experts model, from scratch or upcycled from a dense one.",
        implementation="pipelines.moe.training:train",
        spec=MoESpec,
        inputs={
            "tokens": "folder made by `tokenizer tokenize`",
            "dense": "checkpoint of the dense model to upcycle (init: upcycle)",
        },
        optional=frozenset({"dense"}),
        packages=("torch", "megatron-core"),
        check=check,
    ),
}
