"""The plan of a set of papers: every table's rows and seeds, and what each needs upstream."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import digest
from workflow.plan import Values
from workflow.schemas.paper import DEFAULT_METHODS, Paper, Row, Table, load_paper
from workflow.schemas.params import MethodParams, Params, load_params
from workflow.stages import StagePlan


def plan_papers(config: dict[str, Any], root: str) -> PaperPlan:
    """Check parameters and papers, and plan every job they need.

    Args:
        config: the merged params.yaml and overlays.
        root: the folder that holds papers/.

    Raises:
        RetraceError: a parameter or a paper is wrong; names the file and the key.
    """
    params, methods = load_params(config)
    plan = PaperPlan(params, methods)
    for key in params.papers:
        # Relative, so that a checkout elsewhere plans the same command lines.
        folder = Path(os.path.relpath(root)) / "papers" / key
        if not folder.is_dir():
            known = sorted(path.parent.name for path in (Path(root) / "papers").glob("*/paper.yaml"))
            raise RetraceError(f"params.yaml: papers: no paper {key!r}; known: {', '.join(known)}")
        plan.add_paper(key, load_paper(folder / "paper.yaml"), folder / "reported.csv")
    plan.add_claims()
    return plan


class PaperPlan(StagePlan):
    """All jobs of the requested papers.

    Attributes:
        tables, plots: (paper, name) in the order of the papers.
        runs: folders of all runs that a table shows, in the order they were planned.
        not_run: table, as ``paper/name`` -> the folder of params.yaml it needs and has not got.
    """

    def __init__(self, params: Params, methods: MethodParams) -> None:
        super().__init__(params, methods)
        self.papers: dict[str, Paper] = {}
        self.tables: list[tuple[str, str]] = []
        self.plots: list[tuple[str, str]] = []
        self.not_run: dict[str, str] = {}

    @property
    def runs(self) -> list[str]:
        """Folders of every job but the papers' own."""
        return [path for path in self.jobs if not path.startswith("results/papers/")]

    @property
    def runs_key(self) -> str:
        """Identity of all runs together: another one when a run is added, changed or dropped."""
        return digest({path: self.jobs[path].key for path in self.runs})

    @property
    def runs_of_papers(self) -> str:
        """Paper -> folders of the runs behind its tables, as JSON."""
        return json.dumps({key: self.jobs[f"results/papers/{key}"].inputs.get("run", ()) for key in self.papers})

    # Papers

    def add_paper(self, key: str, paper: Paper, reported: Path) -> None:
        """Plan a paper's tables, and everything they need."""
        self.papers[key] = paper
        runs: list[str] = []
        evaluations: list[str] = []
        tables = [self._table(key, name, table, runs, evaluations) for name, table in paper.tables.items()]
        self.tables += [(key, name) for name in paper.tables]
        self.plots += [(key, name) for name in paper.plots]
        spec = {
            "paper": key,
            "title": paper.title,
            "arxiv": paper.arxiv,
            "tables": tables,
            "plots": [{"name": name, **plot.model_dump()} for name, plot in paper.plots.items()],
        }
        self.add(
            f"results/papers/{key}",
            "tables",
            "build",
            spec,
            run=runs,
            evaluation=evaluations,
            reported=str(reported) if reported.is_file() else None,
        )

    def add_claims(self) -> None:
        """Plan the verdicts on every claim of the papers."""
        claims = [{"paper": key, **claim.model_dump()} for key, paper in self.papers.items() for claim in paper.claims]
        self.add(
            "results/papers/claims",
            "tables",
            "claims",
            {"claims": claims},
            paper=[f"results/papers/{key}" for key in self.papers],
        )

    def _table(self, paper: str, name: str, table: Table, runs: list[str], evaluations: list[str]) -> Values:
        seeds = table.seeds[: self.params.seeds]
        cells = []
        missing = self._missing_folder(f"papers/{paper}/paper.yaml: tables.{name}.needs", table.needs)
        if missing:
            self.not_run[f"{paper}/{name}"] = missing
        for row in () if missing else table.rows:
            for seed in seeds:
                made = self._row(table, row, seed)
                evaluated = made[0]
                if table.positions:
                    made = [self.positions(made[0]), *made]
                cell: Values = {"row": row.name, "seed": seed, "run": _place(runs, made[0])}
                cell["extra"] = [_place(runs, path) for path in made[1:]]
                if table.evaluate and table.stage_of(row) != "tokenizer":
                    cell["evaluation"] = _place(evaluations, self.evaluation(evaluated))
                cells.append(cell)
        return {
            "name": name,
            "caption": table.caption,
            "rows": [
                {
                    "name": row.name,
                    "label": row.label,
                    "method": row.method,
                    "stage": table.stage_of(row),
                    "parent": row.from_,
                    "reference": row.against,
                }
                for row in table.rows
            ],
            "columns": table.columns,
            "seeds": seeds,
            "reference": table.reference,
            "smoothing_window": table.smoothing_window,
            "cells": cells,
            "not_run": f"it needs {missing}; see params.yaml" if missing else None,
        }

    def _missing_folder(self, where: str, needs: str | None) -> str | None:
        """The folder that a table needs, if params.yaml does not name it."""
        if needs is None:
            return None
        name = needs.removeprefix("folders.")
        if name not in type(self.params.folders).model_fields:
            known = ", ".join(f"folders.{each}" for each in type(self.params.folders).model_fields)
            raise RetraceError(f"{where}: no {needs} in params.yaml; known: {known}")
        return needs if getattr(self.params.folders, name) is None else None

    def _row(self, table: Table, row: Row, seed: int) -> list[str]:
        """Paths of the artifacts whose metrics make one cell; the first is the run itself."""
        overrides = table.overrides(row)
        stage = table.stage_of(row)
        if stage == "tokenizer":
            tokenizer = self.tokenizer(str(row.method), overrides, seed)
            return [tokenizer, self.vocabulary(tokenizer, seed)]
        if stage == "pretrain":
            return [self.pretrained(row.method or DEFAULT_METHODS[stage], overrides, seed)]
        if stage == "translation":
            return [self.translated(overrides, seed)]
        make = {
            "growth": self.grown,
            "moe": self.experts,
            "continual": self.finetuned,
            "forecast": self.forecast,
        }[stage]
        return [make(str(row.method), overrides, seed)]


def _place(paths: list[str], path: str) -> int:
    if path not in paths:
        paths.append(path)
    return paths.index(path)
