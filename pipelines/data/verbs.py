"""Verbs of the data stage."""

from __future__ import annotations

from pipelines.data.spec import CorpusSpec, TasksSpec
from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {
    "build": Verb(
        help="Make a corpus: embedded docstring prose, a local folder, or a data set of the Hub.",
        implementation="pipelines.data.build:build",
        spec=CorpusSpec,
        inputs={"folder": "source local: folder of .txt or .jsonl files"},
        optional=frozenset({"folder"}),
    ),
    "tasks": Verb(
        help="Make labelled tasks for continual finetuning, with a bag-of-words baseline beside each.",
        implementation="pipelines.data.tasks:tasks",
        spec=TasksSpec,
        inputs={"folder": "source local: folder of few-shot (train.txt) or JSON (NAME.train.json) tasks"},
        optional=frozenset({"folder"}),
        packages=("scikit-learn",),
    ),
}
