"""What MLflow costs: preparing its database, and mirroring sixty runs of fifty lines in one process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.machine import measured

ROOT = Path(__file__).resolve().parents[1]
RUNS, LINES = 60, 50


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each command, once: the first pays for what the next finds done."""
    for number in range(RUNS):
        write_run(folder / "results" / "growth" / "stack" / f"seed{number}")
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}

    def seconds(verb: str) -> float:
        return measured([sys.executable, "-m", "pipelines", "runs", verb], folder, environment).seconds

    return {
        "prepare_seconds": seconds("prepare"),
        "prepare_again_seconds": seconds("prepare"),
        f"mirror_{RUNS}_runs_of_{LINES}_lines_seconds": seconds("mirror"),
        "mirror_again_seconds": seconds("mirror"),
    }


def write_run(run: Path) -> None:
    run.mkdir(parents=True)
    record = {
        "key": run.name,
        "stage": "growth",
        "verb": "train",
        "spec": {"method": {"name": "stack"}, "model": {f"size_{each}": each for each in range(30)}},
        "inputs": {},
        "code_digest": "",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 10.0,
    }
    line = {"tokens": 1000, "flops": 1e9, "loss": 3.0, "lr": 0.1, "grad_norm": 1.0}
    lines = [{"step": step, **line} for step in range(LINES)] + [{"final": True, "val_loss": 2.0}]
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
