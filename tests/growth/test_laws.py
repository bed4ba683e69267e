"""The published rules to the printed digit, and laws fitted to points whose answer is known."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.growth.fitted_law import Point, fit_law
from pipelines.growth.guideline import advise
from pipelines.growth.law_commands import fit_law_command, guideline
from pipelines.growth.points import points_of_runs, read_points
from pipelines.runs.errors import RetraceError

LAW = (0.7, 40.0, -1.5)


@pytest.mark.parametrize(
    ("parameters", "tokens", "printed"),
    [(8e9, 15e12, "6.581"), (7e9, 2e12, "11.11"), (13e9, 2e12, "15.84"), (70e9, 2e12, "42.48")],
)
def test_the_timing_rule_gives_the_papers_table_4_to_the_printed_digit(parameters, tokens, printed):
    assert f"{advise(parameters, tokens, extrapolate=True).growth_timing / 1e9:.4g}" == printed


def test_the_factor_fit_contradicts_the_constant_that_is_advised_beside_it():
    assert advise(8e9, 15e12, extrapolate=True).growth_factor == pytest.approx(24.5, abs=0.05)
    assert advise(70e9, 2e12, extrapolate=True).growth_factor == pytest.approx(221, abs=0.5)


def test_inside_the_fitted_range_the_rule_answers_without_a_warning():
    advice = advise(1.1e9, 1e11)
    assert advice.outside == ()
    assert advice.flops == pytest.approx(6.6e20)
    assert 1e9 < advice.growth_timing < 1e11


@pytest.mark.parametrize(
    ("parameters", "tokens", "reason"),
    [
        (1e7, 2e8, "N is 1e\\+07.*C = 6 N D is 1.2e\\+16"),
        (7e9, 2e10, "N is 7e\\+09"),
        (1.1e9, 1e12, "C = 6 N D is 6.6e\\+21"),
        (0, 1e9, "--parameters must be positive"),
        (1.1e9, -1, "--tokens must be positive"),
        (float("nan"), 1e9, "--parameters must be positive"),
        (1.1, 1.0, "give counts and not billions"),
    ],
)
def test_outside_its_range_the_rule_refuses_with_a_reason(parameters, tokens, reason):
    with pytest.raises(RetraceError, match=reason):
        advise(parameters, tokens)


def test_at_tiny_scale_the_formula_asks_for_a_base_188_times_the_budget():
    assert advise(1e7, 2e8, extrapolate=True).growth_timing / 2e8 == pytest.approx(188, abs=0.5)


def valley(size, flops, timings, curvature=0.1, law=LAW):
    a, b, c = law
    best = a * np.log10(size) + b / np.log10(flops) + c
    return [Point(size, flops, d, 2.0 + curvature * (np.log10(d) - best) ** 2) for d in timings]


def best_timing(size, flops):
    a, b, c = LAW
    return 10 ** (a * np.log10(size) + b / np.log10(flops) + c)


def grid(sizes, budgets):
    return [
        point
        for size in sizes
        for flops in budgets
        for point in valley(size, flops, best_timing(size, flops) * np.array([0.2, 0.6, 1.5, 4.0]))
    ]


def test_a_law_is_found_again_from_points_made_by_it():
    law = fit_law(grid([1e6, 4e6, 2e7], [1e13, 1e14, 1e15]))
    assert law.coefficients == pytest.approx(dict(zip("abc", LAW, strict=True)), rel=1e-6)
    assert law.residual == pytest.approx(0, abs=1e-9)
    assert law.warnings == ()
    assert len(law.minima) == 9
    assert all(each.loss == pytest.approx(2.0) for each in law.minima)


def test_seeds_are_averaged_before_the_parabola():
    points = valley(1e6, 1e14, [1e5, 1e6, 1e7, 1e8])
    noisy = [Point(p.num_parameters, p.flops, p.growth_timing, p.loss + s) for p in points for s in (-0.3, 0.3)]
    assert fit_law(noisy).minima[0].growth_timing == pytest.approx(fit_law(points).minima[0].growth_timing)


def test_a_coefficient_whose_variable_does_not_vary_is_left_out_and_said():
    law = fit_law(grid([1e6], [1e13, 1e14, 1e15]))
    assert set(law.coefficients) == {"b", "c"}
    assert law.coefficients["b"] == pytest.approx(LAW[1])
    assert any("log10 N is the same" in warning for warning in law.warnings)


def test_sizes_and_budgets_that_vary_together_give_no_law():
    points = [point for n in (1e6, 1e7, 1e8) for point in grid([n], [10 ** (14 / (1 - (np.log10(n) - 6) / 10))])]
    law = fit_law(points)
    assert law.coefficients == {}
    assert any("vary together" in warning for warning in law.warnings)


@pytest.mark.parametrize(
    ("points", "warning"),
    [
        (valley(1e6, 1e14, [1e4, 1e5, 1e6, 1e7], curvature=-0.1), "no valley"),
        (valley(1e6, 1e14, [1e1, 1e2, 1e3]), "outside the tried"),
        (valley(1e6, 1e14, [1e5, 1e6]), "2 trained d, and a parabola needs 3"),
        ([Point(1e6, 1e14, 0, 2.0), *valley(1e6, 1e14, [1e5, 1e6])], "2 trained d"),
    ],
)
def test_a_level_without_a_bottom_gives_no_minimum_and_is_said(points, warning):
    law = fit_law(points)
    assert law.minima == ()
    assert any(warning in each for each in law.warnings)
    assert "no level has a minimum" in law.warnings[-1]


def test_as_many_minima_as_coefficients_prove_nothing_and_that_is_said():
    law = fit_law(grid([1e6], [1e13, 1e14]))
    assert law.residual is None
    assert any("proves nothing" in warning for warning in law.warnings)


@pytest.mark.parametrize("points", [[], [Point(1e6, 1e14, 1e5, float("nan"))], [Point(-1, 1e14, 1e5, 2.0)]])
def test_points_that_are_none_are_refused(points):
    with pytest.raises(RetraceError, match=r"no points|not a point"):
        fit_law(points)


def write_run(folder, timing, losses, **final):
    folder.mkdir()
    lines = [{"step": k, "flops": 100.0 * (k + 1), "loss": loss} for k, loss in enumerate(losses)]
    final = {"final": True, "num_parameters": 50, "base_tokens": timing, **final}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, final]))
    return folder


def test_points_of_runs_are_their_losses_at_shared_levels(tmp_path):
    runs = [write_run(tmp_path / f"{d}_{s}", d, [5.0 + s, 4.0 + s, 3.0 + s]) for d in (10, 20) for s in (0, 1)]
    points = points_of_runs(runs, 2, "loss", 1)
    assert points == [Point(50, f, d, loss) for f, loss in ((200, 4.5), (300, 3.5)) for d in (10, 20)]


def test_runs_that_grew_in_different_ways_are_not_averaged_as_seeds(tmp_path):
    policies = {"optimizer_policy": "fresh", "schedule_policy": "restart", "data_policy": "disjoint"}
    runs = [write_run(tmp_path / pattern, 10, [5.0, 4.0, 3.0]) for pattern in ("stack", "front")]
    for run in runs:
        spec = {"method": {"name": "stack", "pattern": run.name}, "seed": 0, **policies}
        (run / "run.json").write_text(json.dumps({"spec": spec}))
    with pytest.raises(RetraceError, match=r"front has method\.pattern 'front', and others of the runs have 'stack'"):
        points_of_runs(runs, 2, "loss", 1)
    assert len(points_of_runs(runs[:1], 2, "loss", 1)) == 2


def test_runs_that_give_no_points_are_refused(tmp_path):
    scratch = write_run(tmp_path / "scratch", None, [3.0])
    lines = (scratch / "metrics.jsonl").read_text().replace('"base_tokens": null', '"x": 0')
    (scratch / "metrics.jsonl").write_text(lines)
    with pytest.raises(RetraceError, match="not grown from a base"):
        points_of_runs([scratch], 2, "loss", 1)
    with pytest.raises(RetraceError, match="fewer than the window"):
        points_of_runs([write_run(tmp_path / "short", 5, [3.0])], 2, "loss", 4)


def test_the_commands_print_refuse_and_warn(tmp_path):
    done = CliRunner().invoke(guideline, ["--parameters", "7e9", "--tokens", "2e12", "--extrapolate"])
    assert done.exit_code == 0
    assert "11.11 billion tokens" in done.output
    assert "growth_factor  4 " in done.output
    assert isinstance(
        CliRunner().invoke(guideline, ["--parameters", "7e9", "--tokens", "2e12"]).exception, RetraceError
    )
    file = tmp_path / "points.csv"
    points = grid([1e6, 1e7], [1e13, 1e15])
    rows = [f"{p.num_parameters},{p.flops},{float(p.growth_timing)},{float(p.loss)}" for p in points]
    file.write_text("\n".join(["num_parameters,flops,growth_timing,loss", *rows]), encoding="utf-8")
    fitted = CliRunner().invoke(fit_law_command, ["--points", str(file)])
    assert fitted.exit_code == 0, fitted.output
    assert "a = 0.7" in fitted.output
    assert isinstance(CliRunner().invoke(fit_law_command, []).exception, RetraceError)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("flops,loss\n1,2\n", "lacks the column num_parameters"),
        ("num_parameters,flops,growth_timing,loss\n1,x,2,3\n", "line 2"),
    ],
)
def test_a_file_of_points_that_is_none_is_refused(tmp_path, text, fault):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(RetraceError, match=fault):
        read_points(tmp_path / "points.csv")
