"""Damage done to files."""

from __future__ import annotations

from pathlib import Path


def flip(file: Path, at: int = -1) -> None:
    """Turn one bit of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
