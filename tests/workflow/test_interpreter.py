"""Jobs run with the Python that runs Snakemake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_an_environment_need_not_be_activated(checkout: Path, snakemake_environment: dict[str, str]) -> None:
    snakemake = Path(sys.executable).parent / "snakemake"
    corpus = "results/data/prose/seed0"
    done = subprocess.run(
        [snakemake, "--cores", "1", corpus, "--configfile", "params/smoke.yaml"],
        cwd=checkout,
        env={**snakemake_environment, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert (checkout / corpus / "run.json").exists()
