"""What the store costs and saves: a hit over the plain copy of its bytes, and a fresh clone restored from a remote."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.graph import SNAKEMAKE, copy_checkout
from benchmarks.machine import measured
from pipelines.runs.cache import cache_settings
from pipelines.runs.identity import RUN_RECORD, job_key
from pipelines.runs.job import METRICS
from pipelines.runs.request import validate_spec
from pipelines.runs.store import open_store
from pipelines.runs.verb import job_verb

ROUNDS = 5
SIZES = {"small": 100_000, "large": 200_000_000}


def measure_hits(checkout: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Median seconds of a job that the store answers and of ``cp -r`` of the same folder, whole processes, alternating.

    Args:
        checkout: a copy of the checkout, whose store takes two more records.
        folder: where the artifacts go.
    """
    figures = {}
    for name, size in SIZES.items():
        artifact = folder / name
        options = store_artifact(checkout, artifact, size, seed=size)
        hits, copies = [], []
        for number in range(ROUNDS):
            hit = measured([*options, "--out", str(folder / f"{name}_hit{number}")], checkout)
            assert "restored from the store" in hit.output, hit.output
            copy = measured(["cp", "-r", str(artifact), str(folder / f"{name}_copy{number}")], checkout)
            hits.append(hit.seconds)
            copies.append(copy.seconds)
        figures[name] = {
            "artifact_mb": size / 1e6,
            "hit_seconds": statistics.median(hits),
            "copy_seconds": statistics.median(copies),
            "over_copy_seconds": statistics.median(a - b for a, b in zip(hits, copies, strict=True)),
        }
    return figures


def store_artifact(checkout: Path, artifact: Path, size: int, seed: int) -> list[str]:
    """Store a made-up artifact of so many bytes as a corpus; the command that asks for it."""
    declared = job_verb("data", "build")
    spec = validate_spec("data", declared, {"seed": seed}).model_dump(mode="json")
    key = job_key("data", "build", declared, spec, {})
    run = {
        "key": key,
        "stage": "data",
        "verb": "build",
        "spec": spec,
        "inputs": {},
        "code": {},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "git_commit": None,
        "mlflow_run_id": None,
        "provenance": "computed",
    }
    artifact.mkdir(parents=True)
    (artifact / "train.bin").write_bytes(os.urandom(size))
    (artifact / METRICS).write_text('{"final": true}\n', encoding="utf-8")
    (artifact / RUN_RECORD).write_text(json.dumps(run), encoding="utf-8")
    store = open_store(checkout)
    assert store is not None
    assert store.put(artifact, run) is not None
    return [sys.executable, "-m", "pipelines", "data", "build", "--spec", json.dumps(spec), "--key", key]


def holds_default_run(checkout: Path) -> bool:
    """Whether the checkout's store has every artifact that the default tables need."""
    from workflow.papers import plan_papers

    store = open_store(checkout)
    if store is None:
        return False
    config = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    records = [store.record(job.key) for job in plan_papers(config, str(checkout)).jobs.values()]
    return all(record is not None and not store.missing(record) for record in records)


def restore_fresh_clone(finished: Path, folder: Path, options: list[str]) -> dict[str, Any]:
    """Share a finished run, and make its tables on a fresh clone that has nothing but the remote.

    Args:
        finished: a checkout whose store holds the run.
        options: Snakemake's, the configuration files among them.
    """
    sharer = _clone(folder / "sharer", folder / "remote")
    settings = cache_settings(finished)
    assert settings is not None
    _dvc(sharer, "cache", "dir", "--local", str(settings.folder))
    sharing = measured([sys.executable, "-m", "pipelines", "store", "share", *options], sharer)
    fresh = _clone(folder / "fresh", folder / "remote")
    restoring = measured([*SNAKEMAKE, *options], fresh)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (fresh / "results").rglob(RUN_RECORD)]
    assert {record["provenance"] for record in records} == {"restored"}, "something was computed"
    again = measured([*SNAKEMAKE, *options, "--dry-run"], fresh)
    assert "Nothing to be done" in again.output, again.output[-2000:]
    stored = sum(path.stat().st_size for path in (folder / "remote").rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return {
        "jobs": len(records),
        "remote_mb": stored / 1e6,
        "share_seconds": sharing.seconds,
        "restore_seconds": restoring.seconds,
        "computing_took_seconds": sum(record["seconds"] for record in records),
    }


def _clone(folder: Path, remote: Path) -> Path:
    """A git repository of this checkout's files, as they are now, with the remote as its default."""
    copy_checkout(folder)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    _dvc(folder, "remote", "add", "--local", "--default", "team", str(remote))
    return folder


def _dvc(folder: Path, *arguments: str) -> None:
    measured([sys.executable, "-m", "dvc", *arguments], folder)
