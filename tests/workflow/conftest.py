"""A copy of the checkout to run the graph in, so that tests never touch a person's results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PARTS = ("Snakefile", "params.yaml", "params", "papers", "pipelines", "workflow", "envs", "dvc.yaml", "pyproject.toml")
# snakemake --lint and dvc need none of these, and a copy of .venv would cost gigabytes.
SKIPPED = shutil.ignore_patterns("__pycache__", ".snakemake")


@pytest.fixture(scope="session")
def make_checkout(root: Path) -> Callable[[Path], Path]:
    """``make_checkout(folder)`` copies what the graph needs and nothing that was computed."""

    def make(folder: Path) -> Path:
        for part in PARTS:
            source = root / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=SKIPPED)
            elif source.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, folder / part)
        return folder

    return make


@pytest.fixture
def checkout(make_checkout: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A checkout of one test."""
    return make_checkout(tmp_path / "checkout")


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
