"""Verbs of the data stage."""

from __future__ import annotations

from pipelines.data.spec import CorpusSpec
from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {
    "build": Verb(
        help="Make a corpus: embedded docstring prose, a local folder, or a data set of the Hub.",
        implementation="pipelines.data.build:build",
        spec=CorpusSpec,
        inputs={"folder": "source local: folder of .txt or .jsonl files"},
        optional=frozenset({"folder"}),
    ),
}
