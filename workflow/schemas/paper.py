"""Typed contract of papers/<key>/paper.yaml: what a paper claims and which runs answer it.

Unknown keys are refused. Imports nothing heavy: the graph is planned with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import list_methods
from pipelines.tables.metrics import METRICS, metric
from pipelines.tables.spec import Curved

RowStage = Literal["tokenizer", "pretrain", "growth", "moe", "continual", "translation", "forecast"]

DEFAULT_METHODS = {"pretrain": "dense"}
"""Method of a row that names none; the other stages have no method that goes without saying."""

# One string is a key, a file, a wildcard and a folder.
NAME = re.compile(r"[a-z][a-z0-9_]*")


def _name(value: Any) -> Any:
    if isinstance(value, str) and not NAME.fullmatch(value):
        raise ValueError("a name is lower case: letters, digits and underscores, a letter first")
    return value


def _column(value: Any) -> Any:
    if isinstance(value, str):
        try:
            metric(value)
        except RetraceError as unknown:
            raise ValueError(str(unknown)) from None
    return value


Name = Annotated[str, BeforeValidator(_name)]
Column = Annotated[str, BeforeValidator(_column)]


class Strict(BaseModel):
    """Base of the parts of paper.yaml: frozen, unknown keys refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = sorted(str(key) for key in set(values) - set(known)) if isinstance(values, dict) else []
        if unknown:
            raise ValueError(f"unknown key {', '.join(unknown)}; known: {', '.join(known)}")
        return values


class Row(Strict):
    """One row of a table: a method with its settings, run once a seed.

    Attributes:
        name: key of the row; the first column of the table unless ``label`` says it in words.
        method: file name under pipelines/<stage>/methods; a row of pretrain that names none is dense.
        stage: of the table, unless the row has its own.
        with_: dotted keys of the stage's spec -> values; ``0.5x`` is half the number that params.yaml gives. A key
            that starts with another stage's name (``tokenizer.method``, ``pretrain.train_bytes``) sets that stage's
            spec upstream of the row.
        from_: the row of this table whose model this one starts from (a line of descent).
        against: the row that derived columns compare this one with; the table's reference by default.
    """

    name: Name
    method: Name | None = None
    stage: RowStage | None = None
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    from_: Name | None = Field(None, alias="from")
    against: Name | None = None
    label: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_method(cls, value: Any) -> Any:
        return {"name": value, "method": value} if isinstance(value, str) else value


class Table(Strict):
    """A grid of runs: rows x seeds, and the columns to show of them.

    Attributes:
        columns: metrics; ``*_acc`` is the accuracy of every task, which needs ``evaluate``.
        needs: a folder of params.yaml (``folders.NAME``) without which the table is not run.
        evaluate: score the models with the harness's tasks.
        positions: fit the reciprocal law to the runs' loss by position; curves are then over the position.
    """

    caption: str
    needs: str | None = Field(None, pattern=r"^folders\.[a-z_]+$")
    stage: RowStage | None = None
    rows: tuple[Row, ...] = Field(min_length=1)
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    columns: tuple[Column, ...] = Field(min_length=1)
    evaluate: bool = False
    positions: bool = False
    seeds: tuple[int, ...] = Field(min_length=1)
    reference: Name | None = None
    smoothing_window: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [row.name for row in self.rows]
        for what, values in (("rows", names), ("columns", self.columns), ("seeds", self.seeds)):
            twice = sorted({str(each) for each in values if list(values).count(each) > 1})
            if twice:
                raise ValueError(f"{what} name {', '.join(twice)} twice")
        for row in self.rows:
            if (row.stage or self.stage) is None:
                raise ValueError(f"row {row.name} has no stage: give the table one, or the row")
            if row.from_ is not None and row.from_ not in names[: names.index(row.name)]:
                raise ValueError(f"row {row.name} starts from {row.from_!r}, which is no row above it")
        for other in (self.reference, *(row.against for row in self.rows)):
            if other is not None and other not in names:
                raise ValueError(f"reference {other!r} is no row; rows: {', '.join(names)}")
        untrained = {str(self.stage_of(row)) for row in self.rows} - {"pretrain", "growth", "moe"}
        if self.positions and untrained:
            raise ValueError(f"positions: rows of {', '.join(sorted(untrained))} have no loss by position")
        for column in self.columns:
            needs = metric(column).needs
            if needs == "reference" and self.reference is None:
                raise ValueError(f"column {column} compares with a row: say which, as reference")
            if needs == "parent" and not any(row.from_ for row in self.rows):
                raise ValueError(f"column {column} compares with the row a row starts from: give rows a from")
        return self

    def stage_of(self, row: Row) -> RowStage:
        """The row's stage, its own or the table's."""
        stage = row.stage or self.stage
        assert stage is not None
        return stage

    def overrides(self, row: Row) -> dict[str, Any]:
        """Dotted key -> value for this row: the table's, then the row's own over them."""
        return {**self.with_, **row.with_}


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Curves(Strict):
    """Curves of a table's rows: mean over seeds with a band of one standard deviation.

    Over ``base_tokens`` they are IsoFLOP curves: at levels of FLOPs, the loss by the length of the base's training.

    Attributes:
        rows: those shown; all by default.
        y: one logged number, or several, a curve each.
    """

    table: Name
    rows: tuple[Name, ...] = ()
    x: Literal["flops", "tokens", "step", "rank", "base_tokens", "position"] = "flops"
    y: Annotated[tuple[Curved, ...], BeforeValidator(_one_or_more)] = ("loss",)
    scale: Literal["linear", "log", "log_x"] = "linear"
    caption: str | None = None


class Claim(Strict):
    """A sentence of the paper that two rows, or a row and a number, can bear out or not.

    Attributes:
        says: the claim in one sentence.
        where: figure, table or section of the paper.
        better: the row claimed to be better.
        than: the row, or the number, it is claimed to be better than.
        metric: the column it is decided on; the metric's direction says which side is better.
    """

    id: Name
    says: str
    where: str
    table: Name
    better: Name
    than: float | Name
    metric: Column

    @model_validator(mode="after")
    def _directed(self) -> Self:
        if self.metric.startswith("*"):
            raise ValueError(f"metric {self.metric} is many columns: a claim is decided on one, as average_acc")
        if metric(self.metric).direction == "none":
            directed = ", ".join(name for name, each in METRICS.items() if each.direction != "none")
            raise ValueError(f"metric {self.metric} has no better side; metrics with one: {directed}")
        return self


class Paper(Strict):
    """A paper: its tables as grids of runs, its plots and its claims."""

    title: str
    arxiv: str | None = None
    tables: dict[Name, Table] = Field(min_length=1)
    plots: dict[Name, Curves] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _references(self) -> Self:
        for name, plot in self.plots.items():
            if plot.table not in self.tables:
                raise ValueError(f"plots.{name}: no table {plot.table!r}; tables: {', '.join(self.tables)}")
            known = [row.name for row in self.tables[plot.table].rows]
            strange = [row for row in plot.rows if row not in known]
            if strange:
                raise ValueError(
                    f"plots.{name}: table {plot.table} has no row {strange[0]!r}; rows: {', '.join(known)}"
                )
        seen: set[str] = set()
        for claim in self.claims:
            here = f"claim {claim.id}"
            if claim.id in seen:
                raise ValueError(f"{here} is there twice")
            seen.add(claim.id)
            if claim.table not in self.tables:
                raise ValueError(f"{here}: no table {claim.table!r}; tables: {', '.join(self.tables)}")
            table = self.tables[claim.table]
            rows = [row.name for row in table.rows]
            for row in (claim.better, claim.than):
                if isinstance(row, str) and row not in rows:
                    raise ValueError(f"{here}: table {claim.table} has no row {row!r}; rows: {', '.join(rows)}")
            if claim.metric not in table.columns:
                raise ValueError(
                    f"{here}: table {claim.table} has no column {claim.metric!r}; columns: {', '.join(table.columns)}"
                )
        return self


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice instead of forgetting the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(twice)} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load_paper(path: Path) -> Paper:
    """Read and check a paper.yaml, its methods' names included.

    Raises:
        RetraceError: names the file, the key, what is wrong and what would be right.
    """
    if not path.is_file():
        raise RetraceError(f"no such file: {path}; a paper is a folder of papers/ with a paper.yaml in it")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.YAMLError as broken:
        raise RetraceError(f"{path}: not YAML: {' '.join(str(broken).split())}") from None
    try:
        paper = Paper.model_validate(values)
    except ValidationError as invalid:
        raise RetraceError("; ".join(f"{path}: {_fault(each)}" for each in invalid.errors())) from None
    for name, table in paper.tables.items():
        for row in table.rows:
            _check_method(f"{path}: tables.{name}: row {row.name}", table.stage_of(row), row.method)
    return paper


def load_papers(folder: Path) -> dict[str, Paper]:
    """Every paper of a folder by its key, in the order of the keys."""
    return {path.parent.name: load_paper(path) for path in sorted(folder.glob("*/paper.yaml"))}


def _fault(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault.get("input")
    shown = f" (got {given!r})" if fault["type"] != "missing" and isinstance(given, str | int | float) else ""
    return f"{key}: {message}{shown}"


def _check_method(where: str, stage: str, method: str | None) -> None:
    known = list_methods(stage)
    if method is None and known and stage not in DEFAULT_METHODS:
        raise RetraceError(f"{where}: method is missing; methods of {stage}: {', '.join(known)}")
    if method is not None and method not in known:
        raise RetraceError(f"{where}: {stage} has no method {method!r}; known: {', '.join(known) or 'none'}")
