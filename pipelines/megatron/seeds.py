"""Seeds of named tensors. Imports no torch."""

from __future__ import annotations

import hashlib


def seed_of(seed: int, name: str) -> int:
    """A 63-bit seed for one named tensor of a run: what is drawn depends on the seed and the name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]) >> 1
