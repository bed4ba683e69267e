from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.job import Job
from pipelines.runs.verb import Execution

MakeArtifact = Callable[..., Path]
MakeJob = Callable[[str], Job]


@pytest.fixture
def artifact(tmp_path: Path) -> MakeArtifact:
    """``artifact("stack0", lines=[...], val_loss=2.0)``: a finished run's folder with those final metrics."""

    def make(name: str, lines: list[dict[str, Any]] | None = None, **final: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        logged = [*(lines or []), {"final": True, **final}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged), encoding="utf-8")
        (folder / "run.json").write_text(json.dumps({"key": f"key-of-{name}"}), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    """``job("out")``: a job that writes into that folder."""

    def make(name: str) -> Job:
        out = tmp_path / name
        out.mkdir(parents=True)
        return Job(out, "key", Execution())

    return make
