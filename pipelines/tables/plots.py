"""Curves of a table, and losses at equal FLOPs: mean over seeds, with one standard deviation."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from pipelines.runs.errors import RetraceError
from pipelines.tables.cells import Cell
from pipelines.tables.curves import Curve, read_curve, smooth
from pipelines.tables.isoflop import levels
from pipelines.tables.spec import PlotSpec, TableSpec

AXES = {
    "flops": "training FLOPs",
    "tokens": "training tokens",
    "step": "step",
    "rank": "rank",
    "base_tokens": "training tokens of the base model",
    "position": "position in the sequence",
}
# What is logged -> the quantity, and the word that tells it from another of that quantity.
QUANTITIES = {
    "loss": ("training loss (nats a token)", "training"),
    "val_loss": ("validation loss (nats a token)", "validation"),
    "interim_val_loss": ("validation loss on the way (nats a token)", "validation"),
    "interim_val_bits_per_byte": ("validation text (bits a byte)", "validation"),
    "forecast_loss": ("validation loss on the way (nats a token)", "forecast"),
    "position_loss": ("validation loss (nats a token)", "measured"),
    "fitted_loss": ("validation loss (nats a token)", "fitted law"),
    "visible_frequency": ("occurrences in the training text", "vocabulary"),
    "scaffold_frequency": ("occurrences in the training text", "scaffolds"),
}
# Okabe and Ito's colours, told apart by colour-blind readers; the dash pattern tells them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
# No dates and no random element ids: the same curves give the same bytes.
STYLE = {"svg.hashsalt": "retrace", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 10}


def draw(plot: PlotSpec, table: TableSpec, cells: dict[tuple[str, int], Cell], out: Path) -> None:
    """Write <plot>.png and <plot>.svg.

    Raises:
        RetraceError: no run of the table has logged the two numbers.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
        (_draw_isoflop if plot.x == "base_tokens" else _draw_curves)(axes, plot, table, cells)
        if not axes.lines:
            names = " or ".join(plot.y)
            raise RetraceError(f"plots.{plot.name}: no run of table {table.name} has logged {plot.x} and {names}")
        if plot.scale != "linear":
            axes.set_xscale("log")
        if plot.scale == "log":
            # What never occurs has no place on the axis.
            axes.set_yscale("log", nonpositive="mask")
        axes.set_xlabel(AXES[plot.x])
        axes.set_ylabel(QUANTITIES[plot.y[0]][0])
        axes.grid(True, alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, title="mean ± sd (seeds)", fontsize=8 if len(table.rows) > 6 else None)
        figure.savefig(out / f"{plot.name}.png", dpi=150, metadata={"Software": None})
        figure.savefig(out / f"{plot.name}.svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _draw_curves(axes: Axes, plot: PlotSpec, table: TableSpec, cells: dict[tuple[str, int], Cell]) -> None:
    shown = [row for row in table.rows if not plot.rows or row.name in plot.rows]
    for place, (row, y) in enumerate((row, y) for row in shown for y in plot.y):
        curves = [
            curve
            if plot.x in ("rank", "position")
            else smooth(curve, min(table.smoothing_window, max(1, len(curve) // 4)))
            for seed in table.seeds
            if (row.name, seed) in cells
            for curve in [read_curve(cells[row.name, seed].lines, plot.x, y)]
            if curve
        ]
        if not curves:
            continue
        xs, means, spreads = mean_curve(curves)
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        text = row.text if len(plot.y) == 1 else f"{row.text}, {QUANTITIES[y][1]}"
        axes.plot(xs, means, dash, color=colour, label=f"{text} ({len(curves)})", linewidth=1.6)
        low, high = ([m + s * d for m, d in zip(means, spreads, strict=True)] for s in (-1, 1))
        # On a logarithmic axis a band that reaches zero has no lower edge, and one such point would break all of it.
        shown_part = [bound > 0 for bound in low] if plot.scale == "log" else None
        axes.fill_between(xs, low, high, where=shown_part, color=colour, alpha=0.18, linewidth=0)


def _draw_isoflop(axes: Axes, plot: PlotSpec, table: TableSpec, cells: dict[tuple[str, int], Cell]) -> None:
    for place, level in enumerate(levels(table, cells, plot.y[0])):
        colour = COLOURS[place % len(COLOURS)]
        xs, means, spreads = zip(*level.grown, strict=True)
        label = f"{level.flops:.2e} FLOPs"
        axes.errorbar(xs, means, spreads, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.4, label=label)
        if level.scratch is not None:
            dotted = "from scratch, at the same FLOPs" if place == 0 else None
            axes.axhline(level.scratch, color=colour, linestyle=":", linewidth=1.2, label=dotted)


def mean_curve(curves: list[Curve]) -> tuple[list[float], list[float], list[float]]:
    """x, mean and standard deviation over the curves, where all of them have values; between points linear."""
    start = max(curve[0][0] for curve in curves)
    end = min(curve[-1][0] for curve in curves)
    xs = sorted({x for curve in curves for x, _ in curve if start <= x <= end})
    levels = [np.interp(xs, [x for x, _ in curve], [y for _, y in curve]).tolist() for curve in curves]
    means = [math.fsum(ys) / len(ys) for ys in zip(*levels, strict=True)]
    spreads = [statistics.stdev(ys) if len(ys) > 1 else 0.0 for ys in zip(*levels, strict=True)]
    return xs, means, spreads
