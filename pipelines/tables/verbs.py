"""Verbs of the tables stage. Imports nothing heavy."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb
from pipelines.tables.spec import BuildSpec, ClaimsSpec

VERBS: dict[str, Verb | Command] = {
    "build": Verb(
        help="Build every table and plot of a paper from the artifacts of its runs.",
        implementation="pipelines.tables.build:build",
        spec=BuildSpec,
        inputs={
            "run": "artifact of a run, in the order the cells count them",
            "evaluation": "artifact of an evaluation, likewise",
            "reported": "the paper's reported.csv",
        },
        optional=frozenset({"run", "evaluation", "reported"}),
        many=frozenset({"run", "evaluation"}),
        packages=("matplotlib",),
    ),
    "claims": Verb(
        help="Hold every claim against the seed-paired differences of its table.",
        implementation="pipelines.tables.claims:claims",
        spec=ClaimsSpec,
        inputs={"paper": "folder of a paper's tables, with its cells.json"},
        many=frozenset({"paper"}),
        packages=("scipy",),
    ),
    "summary": Command(
        help="Print where the tables are, the chain's table and one line a claim.",
        implementation="pipelines.tables.summary:summary",
    ),
}
