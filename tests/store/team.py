"""Made-up artifacts, and what is in a checkout's store and on its remote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.runs.cache import Cache, CacheSettings
from pipelines.runs.store import Record, Store

AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


def make_artifact(folder: Path, key: str, stage: str, verb: str, seconds: float = 60.0) -> None:
    """A made-up artifact: its weights follow from its place, its run record from when it was made."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.safetensors").write_bytes(f"weights of {folder.name} {key}".encode() * 100)
    (folder / "metrics.jsonl").write_text('{"final": true, "val_loss": 2.5}\n', encoding="utf-8")
    run = {"key": key, "stage": stage, "verb": verb, "seconds": seconds, "provenance": "computed"}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")


def run_of(artifact: Path) -> dict[str, Any]:
    """The run record of an artifact."""
    return json.loads((artifact / "run.json").read_text(encoding="utf-8"))


def store_of(checkout: Path) -> Store:
    """The store of a checkout."""
    return Store(Cache(CacheSettings(checkout / ".dvc" / "cache")), checkout)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compute_again(checkout: Path, path: str, like: Path) -> Record:
    """Make and store an artifact of another checkout here; only what no key knows, such as the time, is another."""
    run = run_of(like / path)
    make_artifact(checkout / path, run["key"], run["stage"], run["verb"], seconds=99.0)
    record = store_of(checkout).put(checkout / path, run_of(checkout / path))
    assert record is not None
    return record


def record_of(checkout: Path, path: str) -> Record:
    """The record of an artifact that lies in results."""
    record = store_of(checkout).record(run_of(checkout / path)["key"])
    assert record is not None
    return record


def object_of(folder: Path, record: Record, relpath: str = "model/weights.safetensors") -> Path:
    """Where a cache or a remote has the object of an artifact's file."""
    (md5,) = (each.md5 for each in record.files if each.relpath == relpath)
    return folder / "files" / "md5" / md5[:2] / md5[2:]


def harm(path: Path, content: bytes) -> None:
    """Write over an object as a failing disk would: its mode does not tell."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)
