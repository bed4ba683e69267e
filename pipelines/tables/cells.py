"""The numbers of one row and seed, gathered from the artifacts that made them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import read_metrics, read_record
from pipelines.tables.derived import DERIVED
from pipelines.tables.metrics import METRICS, TASK_METRICS, metric
from pipelines.tables.spec import CellSpec, TableSpec

Number = int | float


@dataclass(frozen=True)
class Cell:
    """One row and seed: merged final metrics, and where they come from.

    Attributes:
        run: folder of the run whose curves count; None where the cell has an evaluation only.
        extra: folders of what else was measured of the run.
        metrics: final metrics of all its artifacts.
        sources: key of every artifact, in the order run, extra, evaluation.
    """

    row: str
    seed: int
    run: Path | None
    metrics: dict[str, Any]
    sources: tuple[str, ...] = field(default=())
    extra: tuple[Path, ...] = field(default=())

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Logged lines of the run and of what was measured of it, the final ones left out."""
        folders = ([] if self.run is None else [self.run]) + list(self.extra)
        return [line for folder in folders for line in read_metrics(folder) if not line.get("final")]


def gather(table: TableSpec, runs: list[Path], evaluations: list[Path]) -> dict[tuple[str, int], Cell]:
    """(row, seed) -> cell, for every cell the table's spec lists.

    Raises:
        RetraceError: an index beyond the inputs, an unfinished artifact, or two artifacts of one cell that
            give different values to one metric.
    """
    cells = {}
    for spec in table.cells:
        where = f"tables.{table.name}: row {spec.row}, seed {spec.seed}"
        folders = _folders(spec, runs, evaluations, where)
        merged: dict[str, Any] = {}
        maker: dict[str, Path] = {}
        for folder in folders:
            for name, value in _final(folder).items():
                if name in merged and merged[name] != value:
                    raise RetraceError(
                        f"{where}: {name} is {merged[name]!r} in {maker[name]} and {value!r} in {folder}: "
                        "give one of the two metrics another name"
                    )
                merged[name], maker[name] = value, folder
        run = None if spec.run is None else runs[spec.run]
        sources = tuple(str(read_record(folder)["key"]) for folder in folders)
        extra = tuple(runs[place] for place in spec.extra)
        cells[spec.row, spec.seed] = Cell(spec.row, spec.seed, run, merged, sources, extra)
    return cells


def _folders(spec: CellSpec, runs: list[Path], evaluations: list[Path], where: str) -> list[Path]:
    wanted = [("run", runs, place) for place in (*([] if spec.run is None else [spec.run]), *spec.extra)]
    if spec.evaluation is not None:
        wanted.append(("evaluation", evaluations, spec.evaluation))
    folders = []
    for name, given, place in wanted:
        if place >= len(given):
            raise RetraceError(f"{where}: asks for --{name} number {place}, and {len(given)} are given (from 0)")
        folders.append(given[place])
    return folders


def _final(folder: Path) -> dict[str, Any]:
    lines = read_metrics(folder)
    if not lines or not lines[-1].get("final"):
        raise RetraceError(f"{folder}/metrics.jsonl has no final line: its job did not finish; run it again")
    return {name: value for name, value in lines[-1].items() if name != "final"}


def with_task_columns(table: TableSpec, cells: dict[tuple[str, int], Cell]) -> TableSpec:
    """The table with a column for every task in place of ``*_acc``, ``*_acc_norm`` and ``*_ppl``.

    Which tasks there are is params.yaml's choice, and so no list of paper.yaml's. They come in the harness's order; a
    column that the table names itself stays where it is. A pattern that fits nothing is left as it is.
    """
    names = dict.fromkeys(name for cell in cells.values() for name in cell.metrics if name not in METRICS)
    columns: list[str] = []
    for column in table.columns:
        suffix = column.removeprefix("*")
        tasks = [name for name in names if name.endswith(suffix)] if suffix in TASK_METRICS else []
        columns.extend([name for name in tasks if name not in table.columns] if tasks else [column])
    return table.model_copy(update={"columns": tuple(columns)})


Values = dict[str, dict[str, dict[int, float | None]]]
"""row -> column -> seed -> value; None where a number is undefined, no entry where a stage has no such metric."""


def tabulate(table: TableSpec, cells: dict[tuple[str, int], Cell]) -> Values:
    """The value of every row, column and seed.

    Raises:
        RetraceError: a column that no run of the table has, one that some seeds of a row lack, or a metric
            that is not a number.
    """
    values: Values = {row.name: {} for row in table.rows}
    for column in table.columns:
        for row in table.rows:
            found = {}
            seeds = [seed for seed in table.seeds if (row.name, seed) in cells]
            for seed in seeds:
                entry = _value(table, cells, row.name, seed, column)
                if entry is not _ABSENT:
                    found[seed] = entry
            if found and len(found) < len(seeds):
                lacking = ", ".join(str(seed) for seed in seeds if seed not in found)
                raise RetraceError(f"tables.{table.name}: row {row.name} lacks {column} at seed {lacking} only")
            if found:
                values[row.name][column] = found
        if cells and metric(column).needs is None and not any(column in columns for columns in values.values()):
            known = sorted({name for cell in cells.values() for name in cell.metrics})
            raise RetraceError(
                f"tables.{table.name}: no run has the metric {column}; they have: {', '.join(known)} "
                "(take the column out, or `evaluate: true` for the harness's)"
            )
    return values


_ABSENT: Any = object()


def _value(table: TableSpec, cells: dict[tuple[str, int], Cell], row: str, seed: int, column: str) -> float | None:
    cell = cells[row, seed]
    needs = metric(column).needs
    if needs is None:
        return _number(cell.metrics[column], table, cell, column) if column in cell.metrics else _ABSENT
    spec = next(each for each in table.rows if each.name == row)
    other = (spec.reference or table.reference) if needs == "reference" else spec.parent
    if other is None or other == row or (other, seed) not in cells:
        return _ABSENT
    return DERIVED[column](cell, cells[other, seed], table.smoothing_window)


def _number(value: Any, table: TableSpec, cell: Cell, column: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Number):
        raise RetraceError(
            f"tables.{table.name}: row {cell.row}, seed {cell.seed}: {column} is {json.dumps(value)}, not a number"
        )
    # A diverged run has no value; it is counted as undefined and never averaged away.
    return float(value) if math.isfinite(value) else None
