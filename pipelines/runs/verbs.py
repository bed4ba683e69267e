"""Commands on run records; none is a job, and none but the mirror imports anything heavy."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {
    "methods": Command("list the methods of every stage, or of one", "pipelines.runs.records:methods"),
    "show": Command("print what is known of a run", "pipelines.runs.records:show"),
    "explain": Command(
        "why an artifact is what it is, and what differs from what is wanted", "pipelines.runs.explain:explain"
    ),
    "collect": Command("mean final metrics of runs, as the files DVC compares", "pipelines.runs.records:collect"),
    "prepare": Command(
        "create or upgrade MLflow's database, once, before parallel jobs", "pipelines.runs.mlflow_mirror:prepare"
    ),
    "mirror": Command("copy runs into MLflow to look at and compare them", "pipelines.runs.mlflow_mirror:mirror"),
}
