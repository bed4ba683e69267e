"""Which artifacts the current tables need: the one place where a command asks the graph."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT

if TYPE_CHECKING:
    from workflow.plan import PlannedJob

TABLES = ("results", "tables")


def plan_wanted(configfiles: Iterable[Path] = (), root: Path = ROOT) -> dict[str, PlannedJob]:
    """Every job of the requested papers by the folder of its artifact.

    Args:
        configfiles: overlays of params.yaml, as ``snakemake --configfile`` takes them.

    Raises:
        RetraceError: a parameter or a paper is wrong, or there is no such file.
    """
    from workflow.papers import plan_papers

    config = merged_config([root / "params.yaml", *(path.absolute() for path in configfiles)])
    # Folders in the parameters are meant from the checkout, wherever the command is given.
    with chdir(root):
        return plan_papers(config, str(root)).jobs


def merged_config(paths: Iterable[Path]) -> dict[str, Any]:
    """Configuration files merged as Snakemake merges them, by its own functions: a later one wins, key by key."""
    from snakemake.common.configfile import load_configfile
    from snakemake.exceptions import WorkflowError
    from snakemake.utils import update_config

    config: dict[str, Any] = {}
    for path in paths:
        try:
            update_config(config, load_configfile(path))
        except OSError as fault:
            raise RetraceError(f"{path}: {fault.strerror}; --configfile takes an overlay of params.yaml") from None
        except WorkflowError as fault:
            raise RetraceError(f"{path}: {fault}") from None
    return config


def select(jobs: dict[str, PlannedJob], targets: Iterable[str], root: Path = ROOT) -> list[PlannedJob]:
    """The jobs that targets name; all without any.

    A target is an artifact's folder, a folder of them, or a table, plot or page of claims, for which the paper's
    artifact is enough: they lie in it.

    Raises:
        RetraceError: a target names no artifact of the current parameters.
    """
    asked = list(targets)
    if not asked:
        return list(jobs.values())
    found: dict[str, PlannedJob] = {}
    for target in asked:
        path = artifact_of(relative_to_checkout(Path(target), root))
        below = {each: job for each, job in jobs.items() if each == path or each.startswith(f"{path}/")}
        if not below:
            raise RetraceError(
                f"{target}: the current parameters have no such artifact or table; `python -m pipelines store status"
                " --jobs` lists them, and an overlay needs its --configfile"
            )
        found |= below
    return list(found.values())


def relative_to_checkout(path: Path, root: Path = ROOT) -> str:
    """A path given from the current folder, or from the checkout, as the plan names it."""
    full = Path(os.path.normpath(Path.cwd() / path))
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else Path(os.path.normpath(path)).as_posix()


def artifact_of(path: str) -> str:
    """The artifact that a published file lies in; any other path as it is."""
    parts = Path(path).parts
    if parts[:2] == TABLES and len(parts) > 2:
        return f"results/papers/{parts[2]}"
    if len(parts) == 2 and parts[0] == "results" and Path(path).stem == "claims":
        return "results/papers/claims"
    return path
