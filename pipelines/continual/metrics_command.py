"""``continual metrics``: ACC, BWT, FWT, forgetting and learning accuracy of a saved accuracy matrix."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipelines.continual.metrics import FORMULAS, sequence_metrics
from pipelines.runs.errors import RetraceError


@click.command()
@click.argument("matrix", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of lines")
def metrics(matrix: Path, as_json: bool) -> None:
    """Print the metrics of MATRIX, an accuracy_matrix.json or the folder that holds one.

    The file needs "accuracy": T + 1 rows of T accuracies, row 0 before training.
    """
    values = sequence_metrics(read_matrix(matrix))
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        click.echo(f"{name:18} {value:9.4f}   {FORMULAS[name]}")


def read_matrix(path: Path) -> list[list[float | None]]:
    """Read the rows of an accuracy matrix.

    Raises:
        RetraceError: no such file, or its content is not a matrix.
    """
    if path.is_dir():
        path = path / "accuracy_matrix.json"
    if not path.is_file():
        raise RetraceError(f"{path}: no such file; give an accuracy_matrix.json or its folder")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["accuracy"]
        if not all(cell is None or isinstance(cell, int | float) for row in rows for cell in row):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise RetraceError(f'{path}: needs "accuracy", a list of rows of numbers (row 0 before training)') from None
    return rows
