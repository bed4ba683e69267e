"""Specs of the table verbs. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Spec
from pipelines.tables.metrics import metric

# What `tables build` leaves for claims and summary beside the tables.
CELLS = "cells.json"

# What a plot may show of the lines that runs log.
Curved = Literal[
    "loss",
    "val_loss",
    "interim_val_loss",
    "interim_val_bits_per_byte",
    "forecast_loss",
    "position_loss",
    "fitted_loss",
    "visible_frequency",
    "scaffold_frequency",
]


class RowSpec(Spec):
    """One row: what it is called and what made it."""

    name: str
    label: str | None = Field(None, description="default: the name")
    method: str | None = None
    stage: str
    parent: str | None = Field(None, description="row whose model this one starts from")
    reference: str | None = Field(None, description="row that derived columns compare with; default: the table's")

    @property
    def text(self) -> str:
        """What a reader sees in the first column."""
        return self.label or self.name


class CellSpec(Spec):
    """Which artifacts hold the numbers of one row and seed."""

    row: str
    seed: int
    run: int | None = Field(None, ge=0, description="place of the run among the --run folders")
    evaluation: int | None = Field(None, ge=0, description="place of the evaluation among the --evaluation folders")
    extra: tuple[int, ...] = Field((), description="further --run folders whose metrics join this cell")


class TableSpec(Spec):
    """One table of a paper."""

    name: str
    caption: str
    rows: tuple[RowSpec, ...] = Field(min_length=1)
    columns: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    reference: str | None = Field(None, description="row that derived columns compare with")
    smoothing_window: int = Field(5, ge=1, description="logged points averaged before loss curves are compared")
    cells: tuple[CellSpec, ...] = Field(description="the runs behind it, one a row and seed")
    not_run: str | None = Field(None, description="why there are no runs behind it, and the remedy")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rows = {row.name for row in self.rows}
        named = [(cell.row, cell.seed) for cell in self.cells]
        strange = sorted(
            {row for row, _ in named if row not in rows} | {str(s) for _, s in named if s not in self.seeds}
        )
        if strange:
            raise ValueError(f"cells name {', '.join(strange)}, which is no row or seed of table {self.name}")
        if len(set(named)) < len(named):
            raise ValueError(f"table {self.name} has two cells of one row and seed")
        others = [name for each in self.rows for name in (each.parent, each.reference)]
        for row in (self.reference, *others):
            if row is not None and row not in rows:
                raise ValueError(f"table {self.name} has no row {row!r}; rows: {', '.join(sorted(rows))}")
        for column in self.columns:
            try:
                metric(column)
            except RetraceError as unknown:
                raise ValueError(str(unknown)) from None
        return self


class PlotSpec(Spec):
    """Curves of a table's rows: of training, of frequency over rank, or losses at equal FLOPs over
    ``base_tokens``."""

    name: str
    table: str
    rows: tuple[str, ...] = Field((), description="only these; default: all")
    x: Literal["flops", "tokens", "step", "rank", "base_tokens", "position"] = "flops"
    y: tuple[Curved, ...] = Field(("loss",), min_length=1, description="logged numbers, a curve each; or one name")
    scale: Literal["linear", "log", "log_x"] = Field("linear", description="of both axes; log_x: of x alone")
    caption: str | None = None

    @field_validator("y", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_loss(self) -> Self:
        if self.x == "base_tokens" and len(self.y) > 1:
            raise ValueError(f"plot {self.name}: losses at equal FLOPs are of one y, not {', '.join(self.y)}")
        return self


class BuildSpec(Spec):
    """Every table and plot of one paper."""

    paper: str = Field(description="key of the paper")
    title: str
    arxiv: str | None = None
    tables: tuple[TableSpec, ...] = Field(min_length=1)
    plots: tuple[PlotSpec, ...] = ()

    @model_validator(mode="after")
    def _tables(self) -> Self:
        tables = [table.name for table in self.tables]
        for plot in self.plots:
            if plot.table not in tables:
                raise ValueError(f"plot {plot.name}: no table {plot.table!r}; tables: {', '.join(tables)}")
            rows = [row.name for row in self.tables[tables.index(plot.table)].rows]
            for row in plot.rows:
                if row not in rows:
                    raise ValueError(f"plot {plot.name}: no row {row!r} in {plot.table}; rows: {', '.join(rows)}")
        return self


class ClaimSpec(Spec):
    """One claim, decided on the seed-paired differences of one column."""

    paper: str
    id: str
    says: str
    where: str
    table: str
    better: str = Field(description="the row claimed to be better")
    than: float | str = Field(description="the row, or the number, it is claimed to be better than")
    metric: str


class ClaimsSpec(Spec):
    """The claims of every paper."""

    claims: tuple[ClaimSpec, ...]
    confidence: float = Field(0.95, gt=0, lt=1, description="of the interval a verdict is read from")
