"""Fixtures every test may use. Nothing heavy is imported here: pytest loads it for each worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before any test imports torch or a tokenizer: one thread each, no network, no telemetry.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
# Jobs that a test makes by hand share one key; none goes on from what another, or a real run, left unfinished.
os.environ["RETRACE_WORK"] = f"{tempfile.gettempdir()}/retrace-tests-{os.getpid()}"
# Nothing a test makes is kept for real runs, nor taken from them; a test of the store says otherwise for itself.
os.environ["RETRACE_STORE"] = "off"

RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("RETRACE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets in {folder}: set RETRACE_SHARED_DATA to the folder that holds them")
    return folder


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """``run_cli("runs", "show", path, check=True, cwd=..., env={...}, timeout=...)``: ``python -m pipelines``.

    Keyword ``spec`` and ``execution`` take dicts. With ``check`` (the default) a failure shows its stderr.
    """

    def run(
        *arguments: str | Path,
        spec: dict[str, Any] | None = None,
        execution: dict[str, Any] | None = None,
        check: bool = True,
        cwd: Path = ROOT,
        env: dict[str, str] | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
        if spec is not None:
            command += ["--spec", json.dumps(spec)]
        if execution is not None:
            command += ["--exec", json.dumps(execution)]
        # Unfinished work of tests never mixes with that of real runs.
        environment = {**os.environ, "RETRACE_WORK": str(tmp_path / "work"), **(env or {})}
        source = cwd if (cwd / "pipelines").is_dir() else ROOT
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), environment.get("PYTHONPATH")]))
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(autouse=True)
def no_auxiliary_losses_of_another_test() -> None:
    """Empty the one place a process where megatron keeps auxiliary losses; it is sized for another test's layers."""
    moe_utils = sys.modules.get("megatron.core.transformer.moe.moe_utils")
    if moe_utils is not None:
        moe_utils.get_moe_layer_wise_logging_tracker().clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what passing tests have to say (``record_property("summary", ...)``), also those of other processes."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "summary" and report.when == "call":
                terminalreporter.section(report.head_line or report.nodeid)
                terminalreporter.write_line(str(text))
