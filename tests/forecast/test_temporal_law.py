"""The temporal law against its own equations, written out, and where training does not identify it."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.forecast.methods.temporal_law import TemporalLaw
from pipelines.forecast.protocol import Place


def training(make, reciprocal, cosine, floor, steps=40):
    """Evaluations whose a0, a1 and a2 move as the law says; N counts in units of the 20th evaluation's."""
    made = []
    for step in range(1, steps + 1):
        x, lr = step / 20, cosine(step / steps)
        made.append(make(step, reciprocal(2 + 0.3 * np.log(x), 0.4 + 0.1 / x, floor(x, lr)), lr))
    return made


@pytest.mark.parametrize(
    ("follows", "floor", "expected"),
    [
        ("learning_rate", lambda x, lr: 3 + 2 * lr, {"p2": 3, "q2": 2}),
        ("learning_rate_and_tokens", lambda x, lr: 3 + 2 * lr - 0.5 * np.log(x), {"p2": 3, "q2": 2, "r2": -0.5}),
    ],
)
def test_a_training_that_obeys_the_law_is_forecast_exactly_and_its_numbers_found(
    make, reciprocal, cosine, follows, floor, expected
):
    whole = training(make, reciprocal, cosine, floor)
    seen, later = whole[2:20], whole[20:]
    told = TemporalLaw(follows).forecast(seen, [Place(each.tokens, each.lr) for each in later])
    assert told.losses == pytest.approx([each.loss for each in later], rel=1e-4)
    assert told.warnings == ()
    peak = seen[0].lr
    expected = {"p0": 2, "q0": 0.3, "p1": 0.4, "q1": 0.1, **expected, "q2": expected["q2"] * peak}
    assert {name: told.parameters[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_the_forecast_is_the_mean_over_positions_weighted_by_their_tokens(make, reciprocal, cosine):
    counts = np.arange(64, 0, -1) * 10
    seen = [make(step, reciprocal(2, 0.4, 3), cosine(step / 40), counts) for step in range(1, 9)]
    told = TemporalLaw().forecast(seen, [Place(900, 0.5)])
    assert told.losses[0] == pytest.approx(np.average(reciprocal(2, 0.4, 3), weights=counts), rel=1e-6)


def test_a_constant_learning_rate_leaves_the_floor_constant_and_says_so(make, reciprocal):
    seen = [make(step, reciprocal(2 + 0.3 * np.log(step), 0.4, 3)) for step in range(1, 9)]
    told = TemporalLaw().forecast(seen, [Place(1600, 1.0)])
    assert told.losses[0] == pytest.approx(np.mean(reciprocal(2 + 0.3 * np.log(16), 0.4, 3)), rel=1e-4)
    assert "q2" not in told.parameters
    assert "the learning rate is the same" in told.warnings[0]


def test_evaluations_without_a_visible_law_over_positions_are_counted(make, reciprocal, cosine):
    noise = np.random.default_rng(0)
    seen = [make(step, reciprocal(300, 1000, 3), cosine(step / 40), noise=noise) for step in range(1, 9)]
    told = TemporalLaw().forecast(seen, [Place(1600, 0.5)])
    assert told.warnings[0].startswith("at 8 of 8 seen evaluations:")
    assert np.isfinite(told.losses[0])


def test_columns_that_vary_together_are_not_identified(make, reciprocal):
    """A learning rate that falls with log N cannot be told from log N."""
    seen = [make(step, reciprocal(2, 0.4, 4 - 0.1 * np.log(step)), 1 - 0.3 * np.log(step)) for step in range(1, 9)]
    told = TemporalLaw("learning_rate_and_tokens").forecast(seen, [Place(900, 0.3)])
    assert any("a2: p2 and q2 and r2 multiply what varies together" in each for each in told.warnings)


def test_evaluations_that_do_not_identify_the_law_do_not_throw_the_forecast_off(make, reciprocal, cosine):
    """Fitted one by one, a1 runs to either end of its range by chance, and a0 with it."""
    for seed in range(5):
        noise = np.random.default_rng(seed)
        whole = [
            make(
                step, reciprocal(0.3, 2.0, 3 + 2 * cosine(step / 16)), cosine(step / 16), counts=[100] * 64, noise=noise
            )
            for step in range(1, 17)
        ]
        told = TemporalLaw().forecast(whole[:8], [Place(each.tokens, each.lr) for each in whole[8:]])
        assert "seen evaluations:" in told.warnings[0]
        assert told.losses == pytest.approx([each.loss for each in whole[8:]], rel=0.1)
        assert told.parameters["q1"] == pytest.approx(0, abs=1e-6)
