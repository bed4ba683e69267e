"""What jobs of the small tree leave, and waiting for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.runs.store import Store

SCRATCH = {"method": {"name": "scratch"}}
STACK = {"method": {"name": "stack", "growth_factor": 2}}


def run_of(artifact: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((artifact / "run.json").read_text())
    return run


def left_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def object_of(store: Store, key: str, name: str) -> Path:
    record = store.record(key)
    assert record is not None
    return store.cache.path(next(each.md5 for each in record.files if each.relpath == name))
