"""tables build: every table and plot of a paper from the artifacts of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.tables.cells import gather, tabulate, with_task_columns
from pipelines.tables.page import TablePage
from pipelines.tables.reported import read_reported
from pipelines.tables.spec import CELLS, BuildSpec


def build(spec: BuildSpec, inputs: dict[str, Any], job: Job) -> dict[str, int]:
    """Write <table>.{md,csv,tex,html}, <plot>.{png,svg} and cells.json.

    Returns:
        Counts of tables, cells, defined values and reported numbers.

    Raises:
        RetraceError: reported.csv speaks of a table the paper does not have, or an artifact does not fit its cell.
    """
    runs: list[Path] = list(inputs.get("run") or [])
    evaluations: list[Path] = list(inputs.get("evaluation") or [])
    reported = read_reported(inputs["reported"]) if inputs.get("reported") else []
    names = [table.name for table in spec.tables]
    for each in reported:
        if each.table not in names:
            raise RetraceError(f"{inputs['reported']}: no table {each.table!r}; tables: {', '.join(names)}")

    pages = {}
    for table in spec.tables:
        cells = gather(table, runs, evaluations)
        table = with_task_columns(table, cells)
        beside = [each for each in reported if each.table == table.name]
        pages[table.name] = TablePage(spec, table, tabulate(table, cells), cells, beside)
    for name, page in pages.items():
        for suffix, text in (
            ("md", page.markdown()),
            ("csv", page.csv()),
            ("tex", page.latex()),
            ("html", page.html()),
        ):
            (job.out / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    record = {
        "paper": spec.paper,
        "title": spec.title,
        "arxiv": spec.arxiv,
        "tables": {name: page.record() for name, page in pages.items()},
    }
    (job.out / CELLS).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if spec.plots:
        from pipelines.tables.plots import draw

        for plot in spec.plots:
            draw(plot, pages[plot.table].table, pages[plot.table].cells, job.out)
    values = [
        v for page in pages.values() for row in page.values.values() for each in row.values() for v in each.values()
    ]
    return {
        "num_tables": len(pages),
        "num_cells": sum(len(page.cells) for page in pages.values()),
        "num_values": sum(value is not None for value in values),
        "num_reported": len(reported),
    }
