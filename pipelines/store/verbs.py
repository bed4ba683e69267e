"""Commands on the store; none is a job."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {}
