"""Verbs of the growth stage."""

from __future__ import annotations

from pipelines.growth.spec import GrowSpec, GrowthSpec, InterpolateSpec, LevelSpec
from pipelines.megatron.layout import check_layout
from pipelines.runs.verb import Command, Execution, Verb


def check(spec: GrowthSpec, execution: Execution) -> None:
    """Refuse a layout that does not fit the target model."""
    check_layout(execution, None, spec.model, spec.training)


VERBS: dict[str, Verb | Command] = {
    "train": Verb(
        help="Grow a base model and train it, at FLOPs matched to training the target from scratch.",
        implementation="pipelines.growth.training:train",
        spec=GrowthSpec,
        inputs={"tokens": "folder made by `tokenizer tokenize`", "base": "checkpoint of the base model"},
        optional=frozenset({"base"}),
        packages=("torch", "megatron-core"),
        check=check,
    ),
    "grow": Verb(
        help="Grow a model into a larger one, tensor by tensor, without training, and measure what changed.",
        implementation="pipelines.growth.grow:grow",
        spec=GrowSpec,
        inputs={
            "input": "checkpoint of the base model, or its Hugging Face folder (Llama, Mixtral)",
            "tokens": "folder made by `tokenizer tokenize`, for methods that learn how to grow",
        },
        optional=frozenset({"tokens"}),
        packages=("torch",),
    ),
    "coalesce": Verb(
        help="Make a model smaller for a V-cycle: each group of layers and units becomes one.",
        implementation="pipelines.growth.level_verbs:coalesce_verb",
        spec=LevelSpec,
        inputs={"input": "checkpoint or Hugging Face folder of the large model"},
        packages=("torch",),
    ),
    "decoalesce": Verb(
        help="Make a coalesced model large again: copies of layers, and units split in equal shares.",
        implementation="pipelines.growth.level_verbs:decoalesce_verb",
        spec=LevelSpec,
        inputs={"input": "checkpoint or Hugging Face folder of the small model"},
        packages=("torch",),
    ),
    "interpolate": Verb(
        help="Mix the large model as it was coalesced with the de-coalesced one.",
        implementation="pipelines.growth.level_verbs:interpolate_verb",
        spec=InterpolateSpec,
        inputs={"before": "the large model as it was coalesced", "after": "the de-coalesced model"},
        packages=("torch",),
    ),
    "plan": Command(
        help="Print what a growth would give (parameters, FLOPs, what is preserved, memory) before it touches weights.",
        implementation="pipelines.growth.plan:plan",
    ),
    "guideline": Command(
        help="Print growth timing and factor by the published rules, inside the range they were fitted for.",
        implementation="pipelines.growth.law_commands:guideline",
    ),
    "fit-law": Command(
        help="Fit a law of the best growth timing to finished runs or to a file of points.",
        implementation="pipelines.growth.law_commands:fit_law_command",
    ),
}
