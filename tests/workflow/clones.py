"""Clones of a repository of this checkout's files, and what tests ask of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipelines.runs.cache import Cache, cache_settings
from pipelines.runs.store import Store
from workflow.papers import PaperPlan, plan_papers
from workflow.plan import overridden

SMOKE = "params/smoke.yaml"


def git(folder: Path, *arguments: str) -> str:
    """What a git command says."""
    identity = ["-c", "user.name=a colleague", "-c", "user.email=colleague@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, message: str) -> str:
    """Commit all that git does not ignore, in a new repository if need be; the commit's name."""
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def clone(repository: Path, folder: Path) -> Path:
    """A fresh clone: the files of git and nothing else."""
    git(repository, "clone", "--quiet", str(repository), str(folder))
    return folder


def command(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``python -m ARGUMENTS`` as a person in this clone would say it, with the store on."""
    environment = {**os.environ, "RETRACE_STORE": "full", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 or not check, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that must not fail."""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def plan(folder: Path, overrides: dict[str, Any] | None = None) -> PaperPlan:
    """What the clone's parameters ask for at the smoke scale, dotted keys replaced."""
    config = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    smoke = yaml.safe_load((folder / SMOKE).read_text(encoding="utf-8"))
    return plan_papers(overridden(_merged(config, smoke), overrides or {}), str(folder))


def _merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    both = {**base, **overlay}
    for key in base.keys() & overlay.keys():
        if isinstance(base[key], dict) and isinstance(overlay[key], dict):
            both[key] = _merged(base[key], overlay[key])
    return both


def store_of(folder: Path) -> Store:
    """The checkout's store, which the tests' own environment switches off."""
    settings = cache_settings(folder)
    assert settings is not None
    return Store(Cache(settings), folder)


def run_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Artifact -> its run record."""
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
        for path in (folder / "results").rglob("run.json")
    }


def computed(folder: Path) -> set[str]:
    """The artifacts that were not restored."""
    return {path for path, record in run_records(folder).items() if record["provenance"] == "computed"}


def published(folder: Path) -> dict[str, bytes]:
    """Every table and the claims."""
    results = folder / "results"
    files = [*(results / "tables").rglob("*"), *results.glob("claims.*")]
    return {str(path.relative_to(results)): path.read_bytes() for path in files if path.is_file()}
