"""JSON lines whose errors name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError


def read_json_lines(path: Path, fields: dict[str, type]) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line.

    Args:
        fields: the fields every line must have, and their types.

    Raises:
        RetraceError: no such file, invalid UTF-8, no JSON object, or a field that is missing or of another type.
    """
    if not path.is_file():
        raise RetraceError(f"no such file: {path}")
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            rows.append(_row(line, f"{path}:{number}", fields))
    return rows


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _row(line: bytes, where: str, fields: dict[str, type]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise RetraceError(f"{where}: not valid UTF-8; convert the file") from None
    except json.JSONDecodeError as broken:
        raise RetraceError(f"{where}: not JSON ({broken.msg}); give one object a line") from None
    if not isinstance(row, dict):
        raise RetraceError(f"{where}: not a JSON object; give one object a line with {', '.join(fields)}")
    for field, kind in fields.items():
        if field not in row:
            raise RetraceError(f"{where}: field {field!r} is missing; every line needs {', '.join(fields)}")
        # True is an int for Python, and a mistake in a file.
        if not isinstance(row[field], kind) or (kind is int and isinstance(row[field], bool)):
            raise RetraceError(f"{where}: field {field!r} must be {kind.__name__}, got {row[field]!r:.80}")
    return row
