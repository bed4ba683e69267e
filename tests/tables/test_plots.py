from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib import pyplot

from pipelines.runs.errors import RetraceError
from pipelines.tables.cells import gather
from pipelines.tables.isoflop import levels
from pipelines.tables.plots import _draw_curves, draw, mean_curve
from pipelines.tables.spec import PlotSpec, TableSpec


def test_curves_with_the_same_points_have_their_pointwise_mean_and_deviation() -> None:
    xs, means, spreads = mean_curve([[(1.0, 4.0), (2.0, 2.0)], [(1.0, 6.0), (2.0, 2.0)]])
    assert (xs, means) == ([1.0, 2.0], [5.0, 2.0])
    assert spreads == pytest.approx([2**0.5, 0.0])


def test_curves_with_other_points_are_compared_only_where_all_have_values() -> None:
    xs, means, _ = mean_curve([[(0.0, 4.0), (2.0, 2.0), (4.0, 0.0)], [(1.0, 5.0), (3.0, 3.0)]])
    assert xs == [1.0, 2.0, 3.0]
    assert means == pytest.approx([4.0, 3.0, 2.0])


def test_a_single_curve_has_no_spread() -> None:
    assert mean_curve([[(1.0, 4.0), (2.0, 2.0)]]) == ([1.0, 2.0], [4.0, 2.0], [0.0, 0.0])


@pytest.fixture
def timing(artifact) -> tuple[TableSpec, list[Path]]:
    """Losses 10 - flops + (d - 2)^2 for bases of d = 0, 2, 6 tokens, half a nat either side; scratch's 10 - flops."""
    runs, cells = [], []
    for row, d in (("scratch", None), ("never", 0), ("early", 2), ("late", 6)):
        for seed, shift in ((0, -0.5), (1, 0.5)):
            loss = 0 if d is None else (d - 2) ** 2
            lines = [{"flops": x, "loss": 10 - x + loss + shift} for x in range(d or 0, 11)]
            final = {} if d is None else {"base_tokens": d}
            cells.append({"row": row, "seed": seed, "run": len(runs)})
            runs.append(artifact(f"{row}{seed}", lines, **final))
    rows = [{"name": row, "stage": "growth"} for row in ("scratch", "never", "early", "late")]
    shape = {"name": "timing", "caption": "A valley.", "rows": rows, "columns": ["base_tokens"], "seeds": [0, 1]}
    return TableSpec.model_validate({**shape, "smoothing_window": 1, "cells": cells}), runs


def test_isoflop_levels_lie_where_all_runs_have_logged_and_hold_each_bases_mean_loss(timing) -> None:
    table, runs = timing
    found = levels(table, gather(table, runs, []), "loss")
    assert [level.flops for level in found] == [8.0, 9.0, 10.0]
    for level in found:
        at = 10 - level.flops
        assert level.scratch == pytest.approx(at)
        assert [d for d, _, _ in level.grown] == [0, 2, 6]
        assert [mean for _, mean, _ in level.grown] == pytest.approx([at + 4, at, at + 16])
        assert [spread for _, _, spread in level.grown] == pytest.approx([0.5**0.5] * 3)


def test_isoflop_curves_are_drawn_to_the_same_bytes_twice_and_refused_without_a_grown_run(
    timing, tmp_path: Path
) -> None:
    table, runs = timing
    cells = gather(table, runs, [])
    plot = PlotSpec(name="valley", table="timing", x="base_tokens")
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(plot, table, cells, tmp_path / name)
        drawn.append([(tmp_path / name / f"valley.{suffix}").read_bytes() for suffix in ("png", "svg")])
    assert drawn[0] == drawn[1]
    scratch = {key: cell for key, cell in cells.items() if key[0] == "scratch"}
    with pytest.raises(RetraceError, match=r"plots\.valley: no run of table timing has logged base_tokens and loss"):
        draw(plot, table, scratch, tmp_path)


def test_a_law_over_positions_is_drawn_over_a_logarithmic_axis_beside_what_was_measured(
    artifact, tmp_path: Path
) -> None:
    lines = [{"position": i, "position_loss": 4 + 1 / i, "fitted_loss": 4 + 0.9 / i} for i in (1, 2, 4, 8)]
    runs = [artifact("fit", [{"step": 1, "tokens": 9, "a2": 4.0}, *lines])]
    cell = {"row": "base", "seed": 0, "run": 0}
    shape = {"name": "positions", "caption": "A law.", "rows": [{"name": "base", "stage": "pretrain"}], "seeds": [0]}
    table = TableSpec.model_validate({**shape, "columns": ["position_a2"], "cells": [cell]})
    plot = {"name": "profiles", "table": "positions", "x": "position", "y": ["position_loss", "fitted_loss"]}
    for scale in ("log_x", "linear"):
        spec = PlotSpec.model_validate({**plot, "name": scale, "scale": scale})
        draw(spec, table, gather(table, runs, []), tmp_path)
    assert (tmp_path / "log_x.svg").read_bytes() != (tmp_path / "linear.svg").read_bytes()


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_on_logarithmic_axes_a_band_is_drawn_where_it_lies_above_zero(scale: str) -> None:
    row = {"name": "bpe", "stage": "tokenizer"}
    table = TableSpec(name="t", caption="c", rows=[row], columns=["vocab_size"], seeds=[0, 1], cells=[])
    levels = {0: [40, 20, 1], 1: [42, 24, 9]}
    cells = {
        ("bpe", seed): SimpleNamespace(
            lines=[{"rank": k, "visible_frequency": y} for k, y in enumerate(ys, start=1)], run=Path()
        )
        for seed, ys in levels.items()
    }
    figure, axes = pyplot.subplots()
    plot = PlotSpec(name="p", table="t", x="rank", y=["visible_frequency"], scale=scale)
    _draw_curves(axes, plot, table, cells)
    heights = [y for path in axes.collections[0].get_paths() for _, y in path.vertices]
    assert (min(heights) < 0) == (scale == "linear")
    assert axes.lines[0].get_ydata().tolist() == [41.0, 22.0, 5.0]
    pyplot.close(figure)
