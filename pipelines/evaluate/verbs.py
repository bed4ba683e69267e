"""The verbs of the evaluate stage."""

from __future__ import annotations

from pipelines.evaluate.spec import RunSpec, TasksSpec, one_process
from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {
    "tasks": Verb(
        help="Write lm-evaluation-harness tasks over local JSON lines.",
        implementation="pipelines.evaluate.tasks:tasks",
        spec=TasksSpec,
        inputs={
            "corpus": "corpus artifact whose held-out modules become proxies (source embedded)",
            "folder": "folder of the real evaluation sets (source local)",
        },
        optional=frozenset({"corpus", "folder"}),
        packages=("numpy",),
    ),
    "run": Verb(
        help="Score a model on harness tasks.",
        implementation="pipelines.evaluate.run:run",
        spec=RunSpec,
        inputs={
            "model": "Hugging Face folder, checkpoint, or an artifact that holds one of them in model/",
            "tokenizer": "tokenizer artifact (default: the tokenizer files of the model's folder)",
            "tasks": "harness tasks",
        },
        optional=frozenset({"tokenizer"}),
        packages=("lm-eval", "torch", "transformers"),
        check=one_process,
    ),
}
