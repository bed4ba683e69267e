"""The graph as a whole, in copies of the checkout: planning, smoke run, up-to-date call, and the default run cold."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import Measured, measured

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "all", "paper_tables"]
SMOKE = ["--configfile", "params/smoke.yaml"]


def copy_checkout(folder: Path) -> Path:
    """The tracked and new files of this checkout, without anything it has computed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def run_smoke(checkout: Path) -> dict[str, Any]:
    """Plan the smoke graph, run it cold, and ask again when all is done."""
    planning = [_graph(checkout, *SMOKE, "--dry-run").seconds for _ in range(3)]
    cold = _graph(checkout, *SMOKE)
    up_to_date = [_graph(checkout, *SMOKE).seconds for _ in range(3)]
    return {
        "planning_seconds": statistics.median(planning),
        "smoke_cold_seconds": cold.seconds,
        "smoke_peak_gb": cold.peak_bytes / 1e9,
        "up_to_date_seconds": statistics.median(up_to_date),
    }


def run_default(checkout: Path) -> dict[str, Any]:
    """The default run, cold, and again when all is done."""
    cold = _graph(checkout)
    up_to_date = [_graph(checkout).seconds for _ in range(3)]
    return {
        "default_cold_seconds": cold.seconds,
        "default_peak_gb": cold.peak_bytes / 1e9,
        "default_up_to_date_seconds": statistics.median(up_to_date),
    }


def _graph(checkout: Path, *options: str) -> Measured:
    return measured([*SNAKEMAKE, *options], checkout)
