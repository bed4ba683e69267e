from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.job import read_metrics
from pipelines.runs.lifecycle import run_job
from pipelines.runs.verb import job_verb

RunVerb = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def run_verb() -> RunVerb:
    """Run a verb of the data stage in this process; gives its final metrics."""

    def run(verb: str, spec: dict[str, Any], out: Path, **inputs: Path) -> dict[str, Any]:
        run_job("data", verb, job_verb("data", verb), json.dumps(spec), "{}", inputs, out)
        return read_metrics(out)[-1]

    return run


@pytest.fixture(scope="session")
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    """The objects of a file of JSON lines."""

    def read(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return read
