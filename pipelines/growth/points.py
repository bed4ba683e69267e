"""Points of an IsoFLOP law, read from finished growth runs or from a file."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.growth.fitted_law import Point
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD
from pipelines.runs.job import read_metrics, read_record
from pipelines.runs.records import flatten

POLICIES = ("optimizer_policy", "schedule_policy", "data_policy")
COLUMNS = ("num_parameters", "flops", "growth_timing", "loss")


def read_points(path: Path) -> list[Point]:
    """Points of a CSV file with the columns num_parameters, flops, growth_timing and loss.

    Raises:
        RetraceError: no such file, a column is missing, or a cell is no number.
    """
    if not path.is_file():
        raise RetraceError(f"{path}: no such file; give a CSV file with the columns {', '.join(COLUMNS)}")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if lines and (lacking := [name for name in COLUMNS if name not in lines[0]]):
        raise RetraceError(f"{path} lacks the column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}")
    points = []
    for number, line in enumerate(lines, 2):
        try:
            points.append(Point(*(float(line[name]) for name in COLUMNS)))
        except (TypeError, ValueError):
            raise RetraceError(f"{path}, line {number}: a cell is no number") from None
    return points


def points_of_runs(folders: Sequence[Path], num_levels: int, loss: str, window: int) -> list[Point]:
    """Losses of growth runs at levels of FLOPs that all runs of a size have reached after their growth.

    Levels are evenly spread over the upper half of the FLOPs that the runs of a size share; the loss is smoothed and
    linear between logged points. Runs of the same base length (seeds) are averaged at each level.

    Args:
        loss: ``loss``, ``val_loss`` or ``interim_val_loss``, as logged.
        window: logged points averaged.

    Raises:
        RetraceError: a folder is no finished growth run, the runs grew in different ways, or those of a size share
            no FLOPs.
    """
    _check_alike(folders)
    curves: dict[float, dict[float, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        lines = read_metrics(folder)
        final = lines[-1] if lines else {}
        if not final.get("final"):
            raise RetraceError(f"{folder}: not a finished run; give folders of `growth train`")
        if "base_tokens" not in final:
            raise RetraceError(f"{folder} was not grown from a base model: leave runs from scratch out")
        points = {line["flops"]: line[loss] for line in lines[:-1] if loss in line and "flops" in line}
        if len(points) < window:
            raise RetraceError(f"{folder} has {len(points)} points of {loss}, fewer than the window of {window}")
        kernel = np.full(window, 1 / window)
        curve = np.array(sorted(points.items()), dtype=float)
        smooth = np.stack([np.convolve(column, kernel, "valid") for column in curve.T])
        curves[float(final["num_parameters"])][float(final["base_tokens"])].append(smooth)
    made = []
    for size, by_timing in curves.items():
        every = [curve for group in by_timing.values() for curve in group]
        start, end = max(curve[0, 0] for curve in every), min(curve[0, -1] for curve in every)
        if start >= end:
            raise RetraceError(f"the runs of {size:.4g} parameters share no FLOPs: give them one budget")
        for flops in np.linspace((start + end) / 2, end, num_levels):
            for timing, group in by_timing.items():
                mean = float(np.mean([np.interp(flops, *curve) for curve in group]))
                made.append(Point(size, float(flops), timing, mean))
    return made


def _check_alike(folders: Sequence[Path]) -> None:
    """Refuse runs of other methods or policies beside each other: they would be averaged as if they were seeds."""
    first: dict[str, Any] = {}
    for folder in folders:
        if not (folder / RUN_RECORD).is_file():
            continue
        spec = read_record(folder)["spec"]
        given = flatten({"method": spec["method"], **{policy: spec[policy] for policy in POLICIES}})
        for key, value in given.items():
            if first.setdefault(key, value) != value:
                raise RetraceError(
                    f"{folder} has {key} {value!r}, and others of the runs have {first[key]!r}: give runs that differ "
                    "in their size, base and seed alone"
                )
