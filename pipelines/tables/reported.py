"""Published numbers: reported.csv of a paper, each line one number with its place and how it is known."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path

from pipelines.runs.errors import RetraceError
from pipelines.tables.metrics import metric

KNOWN_BY = {
    "paper": "read in the paper",
    "code": "read in the authors' code, logs or notebooks",
    "second-hand": "someone else's account of the paper",
    "unverified": "remembered or unclear; not checked",
    "measured-elsewhere": "measured by someone other than the authors",
}


@dataclass(frozen=True)
class Reported:
    """One published number.

    Attributes:
        table, row: table and row of ours it stands beside; rows we do not run have names of their own.
        column: the paper's own name of the metric, with its data set and scale.
        compares_with: our metric of the same kind, or empty.
        value, unit: as printed.
        where: table or figure it stands in.
        known_by: one of KNOWN_BY.
    """

    table: str
    row: str
    column: str
    compares_with: str
    value: str
    unit: str
    where: str
    known_by: str
    source: str
    note: str

    @property
    def text(self) -> str:
        """Value and unit."""
        return f"{self.value} {self.unit}".rstrip()


def read_reported(path: Path) -> list[Reported]:
    """The published numbers of a paper, in the order of the file.

    Raises:
        RetraceError: names the file, the line, what is wrong and what would be right.
    """
    wanted = [field.name for field in fields(Reported)]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or list(reader.fieldnames) != wanted:
            raise RetraceError(f"{path}: the first line must be {','.join(wanted)}")
        return [_line(dict(line), f"{path}:{number}") for number, line in enumerate(reader, start=2)]


def beside(reported: list[Reported], rows: list[str], column: str) -> dict[str, Reported]:
    """Row -> the number to show beside our column: of one metric, the first in the file that compares with it."""
    comparable = [each for each in reported if each.compares_with == column and each.row in rows]
    chosen = [each for each in comparable if each.column == comparable[0].column]
    # The first line of a row counts, should the paper give a metric twice.
    return {each.row: each for each in reversed(chosen)}


def _line(values: dict[str, str], where: str) -> Reported:
    if None in values or None in values.values():
        raise RetraceError(f"{where}: needs {len(fields(Reported))} values; quote those with commas in them")
    line = Reported(**values)
    for name in ("table", "row", "column", "value", "where", "known_by", "source"):
        if not values[name].strip():
            raise RetraceError(f"{where}: {name} is empty: a number without it cannot be shown")
    if line.known_by not in KNOWN_BY:
        raise RetraceError(f"{where}: known_by {line.known_by!r} is none of {', '.join(KNOWN_BY)}")
    try:
        finite = math.isfinite(float(line.value))
    except ValueError:
        finite = False
    if not finite:
        raise RetraceError(f"{where}: value {line.value!r} is not a number; put words into note")
    if line.compares_with:
        try:
            metric(line.compares_with)
        except RetraceError as unknown:
            raise RetraceError(f"{where}: compares_with: {unknown}") from None
    return line
