"""Verbs of the megatron room."""

from __future__ import annotations

from pipelines.runs.verb import Command, Spec, Verb

VERBS: dict[str, Verb | Command] = {
    "export": Verb(
        help="Write a checkpoint as a Hugging Face Llama or Mixtral, exactly, with its tokenizer.",
        implementation="pipelines.megatron.export:export",
        spec=Spec,
        inputs={"checkpoint": "checkpoint of a training job", "tokenizer": "the tokenizer it was trained with"},
    ),
    "import": Verb(
        help="Read a Hugging Face Llama or Mixtral folder into a checkpoint.",
        implementation="pipelines.megatron.export:import_",
        spec=Spec,
        inputs={"model": "Hugging Face model folder", "tokenizer": "its tokenizer as made by `tokenizer train`"},
        optional=frozenset({"tokenizer"}),
    ),
    "inspect": Command(
        help="Print a checkpoint's shapes, parameters and FLOPs a token.",
        implementation="pipelines.megatron.inspection:inspect",
    ),
}
