"""Every figure the project is held to: a table a part as it is measured, and results/bench.json (`make bench`).

python -m benchmarks.run                   every part but the default run
python -m benchmarks.run --full            also the default run, cold, and its restoring on a fresh clone
python -m benchmarks.run --only training   one part
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
    graph,
    growing,
    machine,
    mirror,
    planning,
    startup,
    store,
    tokenizer_encoding,
    tokenizer_files,
    tokenizer_training,
)

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]

# What the figures are held to; one that misses is shown in red.
AT_MOST = {
    "graph.smoke_cold_seconds": 240,
    "graph.up_to_date_seconds": 3,
    "planning.times_plain": 2,
    "store.small.hit_seconds": 1,
    "store.small.over_copy_seconds": 0.3,
    "store.large.over_copy_seconds": 0.3,
    "restore.default.restore_seconds": 60,
    "growing.times_copy": 2,
    "growing.peak_tensors": 2,
    "tokenizer_training.vocab_8192.peak_share": 1,
    "tokenizer_training.vocab_32768.peak_share": 1,
    "tokenizer_encoding.expansion_adds": 0.1,
    "tokenizer_files.growth.seconds_a_megabyte_ratio": 1.3,
    "tokenizer_files.growth.peak_ratio": 1.2,
    "default.default_cold_seconds": 1800,
    "default.default_peak_gb": 8,
    "default.default_up_to_date_seconds": 3,
}
AT_LEAST = {
    "training.training_speed.fp32.ratio": 1.2,
    "training.training_speed.bf16.ratio": 1.2,
    "tokenizer_training.vocab_8192.times_faster": 2,
    "tokenizer_training.vocab_32768.times_faster": 4,
    "tokenizer_encoding.times_hugging_face": 1.5,
    "tokenizer_encoding.times_tiktoken": 1,
}


class Workspace:
    """A temporary folder of copies of the checkout; a finished run is made once, for whichever parts want it."""

    def __init__(self, folder: Path, full: bool) -> None:
        self.folder = folder
        self.full = full

    def copy(self, name: str) -> Path:
        return graph.copy_checkout(self.folder / name)

    @cached_property
    def smoke(self) -> tuple[Path, Figures]:
        checkout = self.copy("smoke")
        return checkout, graph.run_smoke(checkout)

    @cached_property
    def default(self) -> tuple[Path, Figures]:
        checkout = self.copy("default")
        return checkout, graph.run_default(checkout)

    def finished_default(self) -> Path | None:
        """A checkout whose store holds all that the default tables need."""
        if store.holds_default_run(ROOT):
            return ROOT
        return self.default[0] if self.full else None


def restore(work: Workspace) -> Figures:
    figures: Figures = {"smoke": store.restore_fresh_clone(work.smoke[0], work.folder / "smoke_clone", graph.SMOKE)}
    finished = work.finished_default()
    if finished is None:
        return {**figures, "default": "not measured: `make paper_tables` first, or give --full"}
    return {**figures, "default": store.restore_fresh_clone(finished, work.folder / "default_clone", [])}


def training_speed(_: Workspace) -> Figures:
    """Its own process: one thread, nothing else imported."""
    command = [sys.executable, str(ROOT / "benchmarks" / "training_speed.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    values: Figures = json.loads(done.stdout.splitlines()[-1])
    return values


PARTS: dict[str, Callable[[Workspace], Figures]] = {
    "graph": lambda work: work.smoke[1],
    "startup": lambda work: startup.measure(work.smoke[0], work.folder / "startup"),
    "planning": lambda work: planning.measure(work.copy("planning"), work.folder / "plain"),
    "store": lambda work: store.measure_hits(work.smoke[0], work.folder / "hits"),
    "mirror": lambda work: mirror.measure(work.folder / "mirror"),
    "training": training_speed,
    "growing": lambda work: growing.measure(work.folder / "growing"),
    "tokenizer_training": lambda work: tokenizer_training.measure(work.folder / "tokenizer_training"),
    "tokenizer_encoding": lambda work: tokenizer_encoding.measure(work.folder / "tokenizer_encoding"),
    "tokenizer_files": lambda work: tokenizer_files.measure(work.folder / "tokenizer_files"),
    "default": lambda work: work.default[1],
    "restore": restore,
}
LONG = {"default"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also the default run, cold: up to half an hour")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part (may be repeated)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench.json")
    arguments = parser.parse_args()
    parts = arguments.only or [part for part in PARTS if arguments.full or part not in LONG]
    os.environ["OMP_NUM_THREADS"] = "1"
    # Kept when something fails: the logs of its jobs are in it.
    folder = Path(tempfile.mkdtemp(prefix="retrace-bench-"))
    # Nobody's shared cache: a cold run is one that finds nothing.
    for level in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        os.environ[level] = str(folder / "no_dvc_config")
    work = Workspace(folder, arguments.full)
    figures: Figures = {"machine": machine.describe()}
    show("machine", figures["machine"])
    for part in (each for each in PARTS if each in parts):
        figures[part] = PARTS[part](work)
        show(part, figures[part])
    shutil.rmtree(folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}")


def show(part: str, figures: Figures) -> None:
    """A part's figures, a row each."""
    table = Table("figure", "value", "held to", title=part, title_justify="left")
    for key, value in flatten(figures).items():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        most, least = AT_MOST.get(f"{part}.{key}"), AT_LEAST.get(f"{part}.{key}")
        missed = (most is not None and value > most) or (least is not None and value < least)
        held_to = f"at most {most}" if most is not None else f"at least {least}" if least is not None else ""
        table.add_row(key, f"[red]{text}[/red]" if missed else text, held_to)
    Console().print(table)


def flatten(values: Figures, prefix: str = "") -> Figures:
    flat: Figures = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


if __name__ == "__main__":
    main()
