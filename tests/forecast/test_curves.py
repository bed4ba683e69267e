"""Curves of the whole loss: each recovers its own law, and says when the seen part does not identify it."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.forecast.protocol import Place
from pipelines.runs.methods import load_method

CURVES = {
    "power_law": lambda x: 3 * x**-0.6 + 2,
    "exponential_law": lambda x: 3 * np.exp(-2.0 * x) + 2,
    "reciprocal_law": lambda x: 3 / (1 + 5.0 * x) + 2,
}


def seen_and_asked(make, curve):
    seen = [make(step, np.full(8, curve(step / 12))) for step in range(2, 13)]
    return seen, [Place(step * 100, 1.0) for step in (13, 20, 30)]


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_carries_its_own_law_on_exactly(make, name):
    seen, asked = seen_and_asked(make, CURVES[name])
    told = load_method("forecast", name).forecast(seen, asked)
    expected = [CURVES[name](place.tokens / 1200) for place in asked]
    assert told.losses == pytest.approx(expected, rel=1e-6)
    assert told.parameters["scale"] == pytest.approx(3, rel=1e-3)
    assert told.parameters["floor"] == pytest.approx(2, rel=1e-3)
    assert told.warnings == ()


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("power_law", lambda x: 4 - 0.5 * np.log(x)),
        ("exponential_law", lambda x: 4 - 0.5 * x),
        ("reciprocal_law", lambda x: 4 - 0.5 * x),
    ],
)
def test_a_limit_of_the_law_is_carried_on_and_its_parameters_called_unidentified(make, name, curve):
    noise = np.random.default_rng(0)
    seen, asked = seen_and_asked(make, lambda x: curve(x) + noise.normal() * 1e-3)
    told = load_method("forecast", name).forecast(seen, asked)
    assert told.losses[0] == pytest.approx(curve(13 / 12), abs=0.02)
    assert "not bounded below" in told.warnings[0]
