"""What a job costs before its first step: one job of every stage verb, run again over a finished smoke graph."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import measured

ROUNDS = 3


def one_run_a_verb(results: Path) -> dict[str, Path]:
    """``stage verb`` -> one finished run of it; the last by path, so that cheap variants come before."""
    found = {}
    for record in sorted(results.rglob("run.json")):
        values = json.loads(record.read_text(encoding="utf-8"))
        found[f"{values['stage']} {values['verb']}"] = record.parent
    return found


def measure(checkout: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """Median seconds of every verb over rounds: before its first step, and in all.

    Args:
        checkout: one with a finished smoke run.
        scratch: where the copies of the artifacts go.
    """
    # The store would answer for the finished run.
    environment = {"RETRACE_WORK": str(scratch / "work"), "RETRACE_STORE": "off"}
    by_key = {json.loads(p.read_text(encoding="utf-8"))["key"]: p.parent for p in checkout.rglob("results/**/run.json")}
    figures: dict[str, dict[str, float]] = {}
    for name, run in one_run_a_verb(checkout / "results").items():
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        inputs = _input_options(record["inputs"], by_key)
        if inputs is None:
            continue
        startup, whole = [], []
        for number in range(ROUNDS):
            out = scratch / f"{name.replace(' ', '_')}_{number}"
            options = ["--spec", json.dumps(record["spec"]), "--exec", json.dumps(record["execution"])]
            command = [sys.executable, "-m", "pipelines", record["stage"], record["verb"], *options, *inputs]
            done = measured([*command, "--out", str(out)], checkout, environment)
            startup.append(json.loads((out / "run.json").read_text(encoding="utf-8"))["startup_seconds"])
            whole.append(done.seconds)
        figures[name] = {
            "before_first_step_seconds": statistics.median(startup),
            "whole_seconds": statistics.median(whole),
            "processes": record["world_size"],
        }
    return figures


def _input_options(inputs: dict[str, Any], by_key: dict[str, Path]) -> list[str] | None:
    """The inputs as options; None when one of them was not made by a job of this graph."""
    options = []
    for name, keys in inputs.items():
        for key in keys if isinstance(keys, list) else [keys]:
            if key not in by_key:
                return None
            options += [f"--{name}", str(by_key[key])]
    return options
