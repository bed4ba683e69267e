"""Verbs of the megatron room."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {
    "inspect": Command(
        help="Print a checkpoint's shapes, parameters and FLOPs a token.",
        implementation="pipelines.megatron.inspection:inspect",
    ),
}
