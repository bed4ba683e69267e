"""What a figure was measured on, and how much memory a tree of processes takes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Measured:
    """One finished command: wall seconds, and peak bytes of it and all it started together."""

    seconds: float
    peak_bytes: int
    output: str


def describe() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * PAGE / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "megatron-core", "snakemake", "mlflow", "transformers")},
    }


def measured(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> Measured:
    """Run a command to its end; a failure shows its last lines and ends the benchmark."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):
            peak = max(peak, _tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    seconds = time.monotonic() - started
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed in {cwd}:\n" + "\n".join(output.splitlines()[-30:]))
    return Measured(seconds, peak, output)


def _tree_bytes(root: int) -> int:
    """Proportional resident bytes of a process and its descendants: what they share counts once."""
    parents = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            fields = "".join(_lines(each / "stat")).rpartition(")")[2].split()
            if fields:
                parents[int(each.name)] = int(fields[1])
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(
        int(line.split()[1]) * 1024
        for pid in family
        for line in _lines(f"/proc/{pid}/smaps_rollup")
        if line.startswith("Pss:")
    )


def _lines(path: str | Path) -> list[str]:
    """A file's lines; none if it has gone, as those of processes do."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
