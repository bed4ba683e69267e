"""Real text of any size, the same each time on a machine: the local data sets, then the installed Python sources."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_text(path: Path, num_bytes: int) -> Path:
    """A text file of so many bytes, cut at the end of a line.

    Where ../shared/data (or RETRACE_SHARED_DATA) is absent it is all sources and their documentation.
    """
    size = 0
    with path.open("wb") as file:
        for text in _texts():
            for line in text.encode().splitlines(keepends=True):
                if size + len(line) > num_bytes:
                    return path
                size += file.write(line)
    raise ValueError(f"there are only {size} bytes of text here, not {num_bytes}")


def _texts() -> Iterator[str]:
    data = Path(os.environ.get("RETRACE_SHARED_DATA", ROOT.parent / "shared" / "data")) / "text"
    for each in sorted(data.rglob("*.txt")):
        yield each.read_text(encoding="utf-8", errors="replace") + "\n"
    if (data / "medquad.jsonl").is_file():
        for line in (data / "medquad.jsonl").read_text(encoding="utf-8").splitlines():
            yield "\n".join(str(value) for value in json.loads(line).values()) + "\n\n"
    for folder in ("stdlib", "purelib"):
        for each in sorted(Path(sysconfig.get_paths()[folder]).rglob("*.py")):
            if folder == "purelib" or "site-packages" not in each.parts:
                yield each.read_text(encoding="utf-8", errors="replace") + "\n"
