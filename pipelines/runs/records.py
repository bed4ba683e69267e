"""Looking at runs and methods from the command line, and the summary of runs that DVC compares."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD
from pipelines.runs.job import read_metrics, read_record
from pipelines.runs.methods import Hyperparameter, list_methods, method_card
from pipelines.runs.verb import STAGES

SEED_FOLDER = re.compile(r"seed\d+")


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Run folders among the paths and below them, sorted, each once.

    Raises:
        RetraceError: a path does not exist.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise RetraceError(f"no such folder: {path}; give run folders or a tree of them, such as results")
        if (path / RUN_RECORD).is_file():
            found.add(path)
        else:
            # A folder whose name starts with a dot is an unfinished job.
            found.update(record.parent for record in path.rglob(RUN_RECORD) if not record.parent.name.startswith("."))
    return sorted(found)


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys; lists become ``key.0``, ``key.1``."""
    if isinstance(values, dict):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list):
        pairs = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat


def final_metrics(run: Path) -> dict[str, Any]:
    """The last, final line of a run's metrics.

    Raises:
        RetraceError: the run did not finish.
    """
    lines = read_metrics(run)
    if not lines or not lines[-1].get("final"):
        raise RetraceError(
            f"{run}: the last line of metrics.jsonl is not final: delete the folder and run its job again"
        )
    return {key: value for key, value in lines[-1].items() if key != "final"}


def is_number(value: Any) -> bool:
    """True for what can be averaged and plotted; bool is not a number here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@click.command("methods", help="List the methods of every stage, or of STAGE, with their hyper-parameters.")
@click.argument("stage", required=False, type=click.Choice(STAGES))
def methods(stage: str | None) -> None:
    """Print one block a method, from syntax trees alone."""
    for each in [stage] if stage else STAGES:
        for name in list_methods(each):
            card = method_card(each, name)
            click.echo(f"{each}.{name}: {card.summary}")
            for hyperparameter in card.hyperparameters.values():
                click.echo(f"    {_describe(hyperparameter)}")
            if card.requires:
                click.echo(f"    needs --{', --'.join(card.requires)}")


@click.command("show", help="Print what is known of the runs at PATHS.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def show(paths: tuple[Path, ...]) -> None:
    """Print a table a run: its record, its spec and its final metrics."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    runs = find_runs(paths)
    if not runs:
        raise RetraceError(f"no {RUN_RECORD} in or under {', '.join(map(str, paths))}: nothing was run there")
    for run in runs:
        table = Table("", "", title=str(run), show_header=False, title_justify="left")
        for key, value in flatten(read_record(run)).items():
            table.add_row(key, str(value))
        table.add_section()
        for key, value in final_metrics(run).items():
            table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        console.print(table)


@click.command("collect", help="Write the mean final metrics over seeds of every run under PATHS, for `dvc metrics`.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="folder of JSON files, one a group of seeds"
)
def collect(paths: tuple[Path, ...], out: Path) -> None:
    """Write ``OUT/<stage>/<method>/<setting>.json``; the names are the run folders' below OUT's parent."""
    root = out.parent
    groups: dict[Path, list[dict[str, Any]]] = {}
    for run in find_runs(paths or (root,)):
        name = (
            run.resolve().relative_to(root.resolve())
            if run.resolve().is_relative_to(root.resolve())
            else Path(run.name)
        )
        parts = [part for part in name.parts if not SEED_FOLDER.fullmatch(part)]
        groups.setdefault(Path(*parts), []).append(final_metrics(run))
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for group, finals in groups.items():
        path = partial / f"{group}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_mean(finals), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    click.echo(f"{sum(map(len, groups.values()))} runs in {len(groups)} files under {out}", err=True)


def _mean(finals: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of every metric that is a number in each of the runs, and how many runs there are."""
    keys = [key for key in finals[0] if all(is_number(final.get(key)) for final in finals)]
    return {"num_runs": len(finals), **{key: statistics.fmean(final[key] for final in finals) for key in keys}}


def _describe(hyperparameter: Hyperparameter) -> str:
    default = "required" if hyperparameter.default is ... else f"= {hyperparameter.default!r}"
    return f"{hyperparameter.name}: {hyperparameter.annotation} {default}"
