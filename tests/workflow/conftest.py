"""Copies of the checkout to run the graph in, so that tests never touch a person's results.

The main job takes longer than all else here, so it runs once a test session, at the smoke scale, and
``finished_smoke`` is a copy of what it left.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.graph import copy_checkout


@pytest.fixture(scope="module")
def params(root: Path) -> dict[str, Any]:
    """The parameters of params.yaml."""
    return yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout for one test."""
    return copy_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkout in which ``snakemake paper_tables`` has run, for copying only, and what the run said.

    Whichever of the parallel test processes comes first runs it; the others wait.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, report = place / "smoke", place / "smoke.json"
    with (place / "smoke.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not report.exists():
            done = _run(copy_checkout(folder), "paper_tables")
            report.write_text(json.dumps([done.returncode, done.stdout + done.stderr]), encoding="utf-8")
    code, said = json.loads(report.read_text(encoding="utf-8"))
    assert code == 0, said[-12000:]
    return folder, said


@pytest.fixture(scope="module")
def finished_smoke(smoke_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the main job has run, with its results, metadata and store: this test file's own copy."""
    folder = tmp_path_factory.mktemp("finished") / "checkout"
    subprocess.run(["cp", "-a", smoke_run[0], folder], check=True)
    return folder


@pytest.fixture(scope="session")
def snakemake() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``snakemake(folder, *arguments, overlay={...}, environment={...})``, at the smoke scale."""
    return _run


@pytest.fixture(scope="session")
def snakemake_environment() -> dict[str, str]:
    """Environment variables that Snakemake is called with."""
    return _environment()


def _run(
    folder: Path,
    *arguments: str,
    overlay: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    configfiles = ["params/smoke.yaml"]
    if overlay is not None:
        (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
        configfiles.append("overlay.yaml")
    return subprocess.run(
        ["snakemake", "--cores", "2", *arguments, "--configfile", *configfiles],
        cwd=folder,
        env={**_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def _environment() -> dict[str, str]:
    # The graph's `python` is the one that runs the tests.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name in ("RETRACE_STORE", "RETRACE_WORK", "MLFLOW_TRACKING_URI", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    return environment
