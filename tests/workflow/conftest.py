"""A copy of the checkout to run the graph in, so that tests never touch a person's results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.graph import copy_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout for one test."""
    return copy_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def snakemake() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``snakemake(folder, *arguments, overlay={...})`` at the smoke scale, with one more overlay of parameters."""
    return _run


def _run(
    folder: Path, *arguments: str, overlay: dict[str, Any] | None = None, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    configfiles = ["params/smoke.yaml"]
    if overlay is not None:
        (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
        configfiles.append("overlay.yaml")
    # The graph's `python` is the one that runs the tests.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name in ("RETRACE_WORK", "MLFLOW_TRACKING_URI", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    return subprocess.run(
        ["snakemake", "--cores", "2", *arguments, "--configfile", *configfiles],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
