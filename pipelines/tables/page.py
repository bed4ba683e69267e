"""A table of a paper as files: ours beside what was reported, in Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import dataclass
from html import escape

from pipelines.tables.cells import Cell, Values
from pipelines.tables.metrics import Metric, metric
from pipelines.tables.render import Grid, html, html_page, latex, markdown
from pipelines.tables.reported import KNOWN_BY, Reported, beside
from pipelines.tables.spec import BuildSpec, TableSpec
from pipelines.tables.verdict import t_interval

NOTHING = "–"


@dataclass(frozen=True)
class TablePage:
    """Everything a table's files are written from."""

    paper: BuildSpec
    table: TableSpec
    values: Values
    cells: dict[tuple[str, int], Cell]
    reported: list[Reported]

    @property
    def title(self) -> str:
        """The paper and where to find it."""
        return self.paper.title + (f" (arXiv {self.paper.arxiv})" if self.paper.arxiv else "")

    def grid(self) -> Grid:
        """Rows x columns, ours as mean ± sd (n), with the reported number beside where there is one."""
        names = [row.name for row in self.table.rows]
        header, columns = [""], []
        for column in self.table.columns:
            header.append(metric(column).heading)
            columns.append([cell_text(self._numbers(row, column), metric(column)) for row in names])
            found = beside(self.reported, names, column)
            if found:
                marks = ", ".join(sorted({each.known_by for each in found.values()}))
                header.append(f"reported ({marks}): {next(iter(found.values())).column}")
                columns.append([found[row].text if row in found else NOTHING for row in names])
        rows = [[row.text, *cells] for row, *cells in zip(self.table.rows, *columns, strict=True)]
        return Grid(header, rows)

    def markdown(self) -> str:
        """The table, how to read it, and everything the paper reports."""
        parts = [f"# {self.table.caption}\n", f"{self.title}, table `{self.table.name}`.\n", markdown(self.grid())]
        parts.append("".join(f"{line}\n" for line in self._legend()))
        parts.append("".join(f"- **{name}**: {formula}\n" for name, formula in self._formulas()))
        if self.reported:
            parts += ["## What is reported\n", markdown(self._reported_grid())]
            parts.append("".join(f"- *{mark}*: {meaning}\n" for mark, meaning in self._marks()))
        return "\n".join(parts)

    def html(self) -> str:
        """The same as a page of its own, for the report."""
        parts = [f"<h1>{escape(self.table.caption)}</h1><p>{escape(self.title)}</p>", html(self.grid())]
        parts.append("".join(f"<p>{escape(line)}</p>" for line in self._legend()))
        parts.append(
            "<ul>" + "".join(f"<li><b>{escape(n)}</b>: {escape(f)}</li>" for n, f in self._formulas()) + "</ul>"
        )
        if self.reported:
            parts += ["<h2>What is reported</h2>", html(self._reported_grid())]
            parts.append("<ul>" + "".join(f"<li><i>{m}</i>: {escape(t)}</li>" for m, t in self._marks()) + "</ul>")
        return html_page(self.table.caption, "".join(parts))

    def latex(self) -> str:
        """The table alone, for a document."""
        return latex(self.grid(), f"{self.table.caption} {self.title}.", f"{self.paper.paper}:{self.table.name}")

    def csv(self) -> str:
        """One line a row and column: unrounded values of every seed in the shown unit, and the reported number.

        ``low`` and ``high`` bound the mean over seeds with 95 % confidence.
        """
        names = [row.name for row in self.table.rows]
        seeds = [f"seed_{seed}" for seed in self.table.seeds]
        head = ["row", "label", "stage", "method", "column", "unit", "mean", "sd", "low", "high", "n", *seeds]
        tail = ["reported", "reported_unit", "reported_column", "where", "known_by"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head + tail)
        for row in self.table.rows:
            for column in self.table.columns:
                each = metric(column)
                numbers = self._numbers(row.name, column)
                shown = {seed: None if v is None else v * each.scale for seed, v in numbers.items()}
                mean, sd, n = summarise(shown)
                found = beside(self.reported, names, column).get(row.name)
                line = [row.name, row.text, row.stage, row.method, column, each.unit, mean, sd, *interval(shown), n]
                line += [shown.get(seed) for seed in self.table.seeds]
                line += [found.value, found.unit, found.column, found.where, found.known_by] if found else [None] * 5
                writer.writerow(["" if value is None else value for value in line])
        return text.getvalue()

    def record(self) -> dict[str, object]:
        """What claims and the summary read: raw values and the keys of the artifacts behind every cell."""
        return {
            "caption": self.table.caption,
            "columns": list(self.table.columns),
            "rows": [row.model_dump(mode="json") for row in self.table.rows],
            "seeds": list(self.table.seeds),
            "reference": self.table.reference,
            "values": {
                row: {column: {str(seed): v for seed, v in seeds.items()} for column, seeds in columns.items()}
                for row, columns in self.values.items()
            },
            "artifacts": {
                row.name: {
                    str(seed): list(self.cells[row.name, seed].sources)
                    for seed in self.table.seeds
                    if (row.name, seed) in self.cells
                }
                for row in self.table.rows
            },
        }

    def _numbers(self, row: str, column: str) -> dict[int, float | None]:
        return self.values[row].get(column, {})

    def _legend(self) -> list[str]:
        seeds = ", ".join(str(seed) for seed in self.table.seeds)
        lines = [
            f"Mean ± standard deviation (number of seeds); seeds {seeds}. ↓ lower is better, ↑ higher is better. "
            f"{NOTHING}: not a number of that stage, or undefined. 95 % intervals of the means are in the CSV."
        ]
        if self.table.not_run:
            lines.insert(0, f"Not run: {self.table.not_run}.")
        if any(metric(column).needs == "reference" for column in self.table.columns):
            window = self.table.smoothing_window
            others = list(dict.fromkeys(row.reference or self.table.reference for row in self.table.rows))
            names = " or ".join(f"`{other}`" for other in others)
            beside = ", each row with that of its kind" if len(others) > 1 else ""
            lines.append(f"Compared with {names}{beside}, seed by seed; curves smoothed over {window} logged points.")
        return lines

    def _formulas(self) -> list[tuple[str, str]]:
        return [(metric(column).label, metric(column).formula) for column in self.table.columns]

    def _reported_grid(self) -> Grid:
        labels = {row.name: row.text for row in self.table.rows}
        rows = [
            [labels.get(each.row, each.row), each.column, each.text, each.where, each.known_by, each.source, each.note]
            for each in self.reported
        ]
        return Grid(["row", "metric", "value", "where", "known by", "source", "note"], rows, num_text_columns=7)

    def _marks(self) -> list[tuple[str, str]]:
        used = {each.known_by for each in self.reported}
        return [(mark, meaning) for mark, meaning in KNOWN_BY.items() if mark in used]


def summarise(numbers: dict[int, float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and count of the defined values; None where there are too few."""
    defined = [value for value in numbers.values() if value is not None]
    mean = statistics.fmean(defined) if defined else None
    sd = statistics.stdev(defined) if len(defined) > 1 else None
    return mean, sd, len(defined)


def interval(numbers: dict[int, float | None]) -> tuple[float | None, float | None]:
    """Bounds of the mean of the defined values, with 95 % confidence; None where there are fewer than two."""
    defined = [value for value in numbers.values() if value is not None]
    if len(defined) < 2:
        return None, None
    bounds = t_interval(defined)
    return bounds.low, bounds.high


def cell_text(numbers: dict[int, float | None], shown: Metric) -> str:
    """``mean ± sd (n)`` in the metric's unit and decimals; ``(n of m)`` where some seeds are undefined."""
    mean, sd, n = summarise({seed: None if v is None else v * shown.scale for seed, v in numbers.items()})
    if mean is None:
        return NOTHING
    count = f"({n})" if n == len(numbers) else f"({n} of {len(numbers)})"
    # A count that no seed changes needs no spread.
    spread = "" if sd is None or (sd == 0 and shown.direction == "none") else f" ± {sd:,.{shown.decimals}f}"
    return f"{mean:,.{shown.decimals}f}{spread} {count}"
