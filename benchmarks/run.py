"""Every figure the project is held to: prints a table and writes results/bench.json (`make bench`).

python -m benchmarks.run            start-up of every verb, planning, smoke run, training speed
python -m benchmarks.run --full     also the default run, cold
python -m benchmarks.run --only training
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import graph, machine, mirror, startup

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("graph", "startup", "mirror", "training")
# What the figures are held to; one that misses is shown in red.
AT_MOST = {
    "graph.smoke_cold_seconds": 240,
    "graph.up_to_date_seconds": 3,
    "default.default_cold_seconds": 900,
    "default.default_peak_gb": 8,
    "default.default_up_to_date_seconds": 3,
}
AT_LEAST = {"training.training_speed.fp32.ratio": 1.2, "training.training_speed.bf16.ratio": 1.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also the default run, cold: up to a quarter of an hour")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part (may be repeated)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench.json")
    arguments = parser.parse_args()
    parts = set(arguments.only or PARTS)
    figures: dict[str, Any] = {"machine": machine.describe()}
    os.environ["OMP_NUM_THREADS"] = "1"
    # Kept when something fails: the logs of its jobs are in it.
    folder = Path(tempfile.mkdtemp(prefix="retrace-bench-"))
    if parts & {"graph", "startup"}:
        smoke = graph.copy_checkout(folder / "smoke")
        figures["graph"] = graph.run_smoke(smoke)
        if "startup" in parts:
            figures["startup"] = startup.measure(smoke, folder / "startup")
    if "mirror" in parts:
        figures["mirror"] = mirror.measure(folder / "mirror")
    if "training" in parts:
        figures["training"] = training_speed()
    if arguments.full:
        figures["default"] = graph.run_default(graph.copy_checkout(folder / "default"))
    shutil.rmtree(folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(figures)
    print(f"written to {arguments.out}")


def training_speed() -> dict[str, Any]:
    """Its own process: one thread, nothing else imported."""
    command = [sys.executable, str(ROOT / "benchmarks" / "training_speed.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def show(figures: dict[str, Any]) -> None:
    """One table, a row a figure."""
    table = Table("figure", "value", "held to")
    for key, value in flatten(figures).items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        most, least = AT_MOST.get(key), AT_LEAST.get(key)
        missed = (most is not None and value > most) or (least is not None and value < least)
        held_to = f"at most {most}" if most is not None else f"at least {least}" if least is not None else ""
        table.add_row(key, f"[red]{text}[/red]" if missed else text, held_to)
    Console().print(table)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


if __name__ == "__main__":
    main()
