"""One checkpoint on disk: written under another name and renamed when whole, read only if every digest is right."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runs.identity import digest

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "retrace-checkpoint-1"
STATE = "state.json"
KEYS = {"format", "step", "layout", "files", "metrics", "facts", "seconds"}


class Fault(Exception):
    """A checkpoint that could not be written, or must not be read; one line that names the file."""


def write_rank(folder: Path, rank: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> tuple[int, bytes]:
    """Write one rank's part of ``folder``, under its partial name. Returns the file's size and SHA-256.

    Raises:
        Fault: the disk is full, read-only or failing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    file = partial_of(folder) / _name(rank)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(here, file, metadata={"facts": json.dumps(facts)})
        _sync(file)
        return file.stat().st_size, _sha256(file)
    except (OSError, SafetensorError) as failed:
        raise Fault(f"cannot write {file}: {_reason(failed)}") from None


def commit(folder: Path, files: list[tuple[int, bytes]], state: dict[str, Any]) -> None:
    """Complete a checkpoint whose ranks' files, given by size and digest, are all there.

    Raises:
        Fault: the disk is full, read-only or failing.
    """
    partial = partial_of(folder)
    listed = [{"size": size, "sha256": sha256.hex()} for size, sha256 in files]
    # As it will be read back, whatever kind of keys and sequences the facts have.
    whole = json.loads(json.dumps({"format": FORMAT, **state, "files": listed}))
    try:
        (partial / STATE).write_text(json.dumps({**whole, "digest": digest(whole)}) + "\n", encoding="utf-8")
        _sync(partial / STATE)
        _sync(partial)
        # A damaged one of the same step may be in the way.
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _sync(folder.parent)
    except OSError as failed:
        raise Fault(f"cannot write {partial}: {_reason(failed)}") from None


def read_state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint: step, layout, files, metrics, facts, seconds.

    Raises:
        Fault: missing, damaged, or of another format.
    """
    file = folder / STATE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        if state.pop("digest") != digest(state) or state["format"] != FORMAT or not state.keys() >= KEYS:
            raise ValueError
        if folder.name != f"step-{state['step']}":
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Fault(f"{file} is missing or damaged") from None
    result: dict[str, Any] = state
    return result


def read_rank(folder: Path, state: dict[str, Any], rank: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One rank's tensors, on the CPU, and facts.

    Raises:
        Fault: the file is missing or is not the one that was written.
    """
    from safetensors import SafetensorError, safe_open

    file, expected = folder / _name(rank), state["files"][rank]
    try:
        if file.stat().st_size != expected["size"] or _sha256(file).hex() != expected["sha256"]:
            raise Fault(f"{file} is damaged")
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
            return tensors, json.loads(opened.metadata()["facts"])
    except (OSError, SafetensorError) as failed:
        raise Fault(f"cannot read {file}: {_reason(failed)}") from None


def _name(rank: int) -> str:
    return f"rank{rank}.safetensors"


def partial_of(folder: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return folder.with_name(f"{folder.name}.partial")


def _sha256(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _sync(path: Path) -> None:
    """Have the bytes of a file, or the names in a folder, on disk before what follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(failed: Exception) -> str:
    return (isinstance(failed, OSError) and failed.strerror) or str(failed)
