from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipelines.tables import derived
from pipelines.tables.curves import first_reaching, flops_to_match, read_curve, smooth
from pipelines.tables.derived import DERIVED
from pipelines.tables.metrics import METRICS


class Run:
    def __init__(self, points: list[tuple[float, float]], loss: str = "loss", **metrics: float) -> None:
        self.lines = [{"flops": x, loss: y} for x, y in points]
        self.metrics = metrics


def test_speedup_of_the_paper_is_300_over_194_minus_1() -> None:
    scratch = Run([(100, 3.0), (300, 2.0)])
    grown = Run([(94, 3.0), (194, 2.0), (294, 1.9)])
    assert DERIVED["speedup"](grown, scratch, 1) == pytest.approx(0.5464, abs=5e-5)
    assert DERIVED["flops_saved"](grown, scratch, 1) == pytest.approx(0.3533, abs=5e-5)


def test_speedup_at_half_and_twice_the_window_is_the_speedup_at_that_window() -> None:
    generator = random.Random(0)
    scratch = Run([(x, 4 - 0.03 * x + generator.gauss(0, 0.2)) for x in range(40)])
    grown = Run([(x, 3.5 - 0.03 * x + generator.gauss(0, 0.2)) for x in range(40)])
    for window, half, double in ((4, 2, 8), (1, 1, 2), (5, 2, 10)):
        assert DERIVED["speedup_half_window"](grown, scratch, window) == DERIVED["speedup"](grown, scratch, half)
        assert DERIVED["speedup_double_window"](grown, scratch, window) == DERIVED["speedup"](grown, scratch, double)
    assert len({DERIVED["speedup"](grown, scratch, window) for window in (2, 4, 8)}) == 3


def test_speedup_interpolates_between_logged_points() -> None:
    scratch = Run([(0, 4.0), (100, 2.0)])
    grown = Run([(40, 3.0), (60, 1.0)])
    assert DERIVED["speedup"](grown, scratch, 1) == pytest.approx(100 / 50 - 1)


def test_speedup_is_negative_when_growth_is_slower() -> None:
    scratch = Run([(0, 4.0), (100, 2.0)])
    grown = Run([(50, 3.0), (200, 2.0)])
    assert DERIVED["speedup"](grown, scratch, 1) == pytest.approx(-0.5)


def test_speedup_takes_the_first_crossing() -> None:
    scratch = Run([(0, 4.0), (100, 2.0)])
    grown = Run([(20, 3.0), (40, 2.0), (60, 2.5), (80, 1.0)])
    assert DERIVED["speedup"](grown, scratch, 1) == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["speedup", "flops_saved", "val_speedup", "val_flops_saved"])
def test_a_loss_never_reached_is_undefined_and_not_extrapolated(name: str) -> None:
    loss = "val_loss" if name.startswith("val") else "loss"
    scratch, grown = Run([(0, 4.0), (100, 2.0)], loss), Run([(50, 3.0), (100, 2.0001)], loss)
    assert DERIVED[name](grown, scratch, 1) is None


def test_validation_is_compared_on_the_interim_text_where_both_have_it() -> None:
    scratch, grown = Run([(0, 4.0), (100, 2.0)], "interim_val_loss"), Run([(40, 3.0), (60, 1.0)], "interim_val_loss")
    for run in (scratch, grown):
        run.lines.append({"flops": run.lines[-1]["flops"], "val_loss": 9.0})
    assert DERIVED["val_speedup"](grown, scratch, 5) == pytest.approx(100 / 50 - 1)
    assert DERIVED["val_flops_saved"](grown, scratch, 5) == pytest.approx(0.5)
    whole = Run([(30, 9.5), (50, 8.5)], "val_loss")
    assert DERIVED["val_speedup"](whole, scratch, 5) == pytest.approx(100 / 40 - 1)


def test_fewer_points_than_the_window_are_undefined() -> None:
    run = Run([(1, 4.0), (2, 3.0)])
    assert flops_to_match(run.lines, run.lines, "loss", 3) is None
    assert flops_to_match([], run.lines, "loss", 1) is None


def test_smoothing_leaves_a_straight_line_where_it_is() -> None:
    assert smooth([(float(x), 10 - 0.5 * x) for x in range(12)], 5) == [(float(x), 10 - 0.5 * x) for x in range(2, 10)]


def test_smoothing_is_the_naive_mean_of_each_window() -> None:
    generator = random.Random(0)
    curve = [(float(x), generator.random()) for x in range(20)]
    smoothed = smooth(curve, 4)
    assert len(smoothed) == 17
    for place, (x, y) in enumerate(smoothed):
        assert x == pytest.approx(sum(curve[place + k][0] for k in range(4)) / 4)
        assert y == pytest.approx(sum(curve[place + k][1] for k in range(4)) / 4)
    assert smooth(curve, 1) == curve


def test_smoothing_hides_a_single_noisy_dip() -> None:
    scratch = Run([(x, 4.0 - x / 100) for x in range(0, 101, 10)])
    dipped = Run([(x, 2.0 if x == 20 else 4.0 - x / 200) for x in range(0, 101, 10)])
    assert DERIVED["speedup"](dipped, scratch, 1) is not None
    assert DERIVED["speedup"](dipped, scratch, 5) is None


def test_a_run_against_itself_has_no_speedup_on_a_falling_curve() -> None:
    run = Run([(x, 4.0 - x / 100) for x in range(0, 101, 10)])
    assert DERIVED["speedup"](run, run, 5) == pytest.approx(0.0, abs=1e-12)


def test_a_curve_that_starts_below_the_level_reaches_it_at_its_first_point() -> None:
    assert first_reaching([(7.0, 1.0), (8.0, 0.5)], 2.0) == 7.0


def test_curves_skip_lines_without_both_numbers_and_keep_the_last_of_equal_x() -> None:
    lines = [
        {"flops": 2, "loss": 1.0},
        {"flops": 1, "loss": 3.0},
        {"flops": 1, "val_loss": 9.0},
        {"flops": 2, "loss": 0.5},
    ]
    lines += [{"flops": 3, "loss": float("nan")}, {"loss": 4.0}, {"flops": 3, "loss": None}]
    assert read_curve(lines, "flops", "loss") == [(1.0, 3.0), (2.0, 0.5)]


def test_gains_are_differences_with_the_parent_and_undefined_without_a_number() -> None:
    before = Run([], val_bits_per_byte=2.0, average_acc=0.25)
    after = Run([], val_bits_per_byte=1.75, average_acc=0.5)
    assert DERIVED["bits_per_byte_gain"](after, before, 5) == 0.25
    assert DERIVED["average_acc_gain"](after, before, 5) == 0.25
    assert DERIVED["bits_per_byte_gain"](Run([]), before, 5) is None
    assert DERIVED["average_acc_gain"](after, Run([]), 5) is None


def test_every_derived_column_is_registered_and_has_its_file() -> None:
    files = {path.stem for path in Path(str(derived.__file__)).parent.glob("*.py")} - {"__init__"}
    assert set(DERIVED) == files == {name for name, each in METRICS.items() if each.needs}
