"""What every forecasting method must keep, whichever it is."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from pipelines.forecast.predict import FITTED, one_text, predict, split
from pipelines.forecast.protocol import Place
from pipelines.forecast.spec import PredictSpec
from pipelines.megatron.position_losses import write_position_losses
from pipelines.runs.job import Job
from pipelines.runs.methods import list_methods, load_method
from pipelines.runs.verb import Execution

METHODS = list_methods("forecast")
STEPS = 30


@pytest.fixture
def series(make, reciprocal, cosine):
    """A training of 30 evaluations with a little noise, whose learning rate rises over the first three."""
    noise = np.random.default_rng(0)
    made = []
    for step in range(1, STEPS + 1):
        lr = cosine(step / STEPS) if step > 3 else step / 4
        means = reciprocal(2 + 0.2 * np.log(step), 0.4 + 0.5 / step, 3 + 2 * lr + 2 / step)
        made.append(make(step, means, lr, noise=noise))
    return made


def run(tmp_path, name, evaluations, method, cut=0.5):
    run, out = tmp_path / f"{name}-run", tmp_path / name
    run.mkdir()
    out.mkdir()
    write_position_losses(run, evaluations)
    with closing(Job(out, "key", Execution())) as job:
        final = predict(PredictSpec(method={"name": method}, cut=cut), {"run": run}, job)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return final, lines, json.loads((out / FITTED).read_text())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_paper(name):
    assert "Paper:" in __import__(type(load_method("forecast", name)).__module__, fromlist=["_"]).__doc__


@pytest.mark.parametrize("name", METHODS)
def test_a_forecast_never_uses_an_evaluation_after_its_cut(tmp_path, series, make, name):
    """Whatever comes after the cut, the forecast is the same to the bit: only the errors differ."""
    _, lines, fitted = run(tmp_path, "as_it_came", series, name)
    other = [each if each.step <= 15 else make(each.step, np.full(64, 50.0), each.lr) for each in series]
    final, others, others_fitted = run(tmp_path, "otherwise", other, name)
    assert others_fitted == fitted
    assert [line["forecast_loss"] for line in others] == [line["forecast_loss"] for line in lines]
    assert fitted["seen_steps"] == list(range(4, 16))
    assert fitted["forecast_steps"] == list(range(16, 31))
    assert final["forecast_error"] > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_what_was_seen_does_decide_the_forecast(tmp_path, series, name):
    _, lines, _ = run(tmp_path, "as_it_came", series, name)
    other = [replace(each, nats=each.nats + each.counts * 0.5) if each.step == 15 else each for each in series]
    _, others, _ = run(tmp_path, "otherwise", other, name)
    assert others[-1]["forecast_loss"] != lines[-1]["forecast_loss"]


@pytest.mark.parametrize("name", METHODS)
def test_a_forecast_does_not_depend_on_what_else_is_asked(series, name):
    seen, _ = split(series, 0.5)
    method = load_method("forecast", name)
    places = [Place(each.tokens, each.lr) for each in series]
    together = method.forecast(seen, places).losses
    assert [method.forecast(seen, [place]).losses[0] for place in places[::7]] == pytest.approx(
        together[::7], rel=1e-12
    )


@pytest.mark.parametrize("name", METHODS)
def test_too_few_evaluations_give_no_number_and_say_why(tmp_path, series, name):
    final, lines, fitted = run(tmp_path, "few", series[::10], name)
    assert final["forecast_error"] is None
    assert final["fit_error"] is None
    assert {line["forecast_loss"] for line in lines} == {None}
    assert "lower training.eval_interval" in fitted["warnings"][0]


def test_errors_are_relative_means_over_each_side_of_the_cut(tmp_path, series):
    final, lines, _ = run(tmp_path, "run", series, "power_law")
    errors = [abs(line["forecast_loss"] - line["measured_loss"]) / line["measured_loss"] for line in lines]
    assert final["forecast_error"] == pytest.approx(np.mean(errors[15:]))
    assert final["final_forecast_error"] == pytest.approx(errors[-1])
    assert final["fit_error"] == pytest.approx(np.mean(errors[3:15]))
    assert (final["num_seen"], final["num_forecast"]) == (12, 15)


def test_an_evaluation_of_another_text_is_another_series(series, make):
    whole = make(STEPS, np.full(64, 4.0), counts=[9000] * 64)
    assert one_text([*series, whole]) == series
