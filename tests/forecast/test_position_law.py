"""The reciprocal law over positions: found where it holds, and called unidentified where the data do not tell."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.forecast.position_law import binned, fit_positions, log_bins


@pytest.mark.parametrize(("a0", "a1", "a2"), [(2.0, 0.3, 4.0), (0.5, 0.02, 3.0), (6.0, 3.0, 1.0)])
def test_known_parameters_come_back_from_exact_losses(make, reciprocal, a0, a1, a2):
    found = fit_positions(make(1, reciprocal(a0, a1, a2)))
    assert (found.fit.scale, found.fit.rate, found.fit.floor) == pytest.approx((a0, a1, a2), rel=1e-4)
    assert found.fit.r2 == pytest.approx(1)
    assert found.binned_r2 == pytest.approx(1)
    assert found.fit.identified
    assert found.ratio == pytest.approx(a0 / a1, rel=1e-4)


def test_under_the_noise_of_tokens_the_interval_holds_the_rate_and_the_residual_is_noise(make, reciprocal):
    covered, ratios = 0, []
    for seed in range(40):
        noise = np.random.default_rng(seed)
        found = fit_positions(make(1, reciprocal(2.0, 0.3, 4.0), counts=[4000] * 64, noise=noise))
        assert found.fit.identified
        covered += found.fit.rate_low < 0.3 < found.fit.rate_high
        ratios.append(found.noise_ratio)
    assert covered >= 34
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("parameters", "warning"),
    [
        ((300.0, 1000.0, 4.0), "a1 i >> 1 at every position: only a0 / a1 is identified"),
        ((9.0, 1e-4, 4.0), "a1 i << 1 at every position: only the slope a0 a1 is identified"),
        ((0.0, 1.0, 4.0), "does not visibly depend on x"),
    ],
)
def test_data_that_do_not_identify_the_parameters_are_said_to(make, reciprocal, parameters, warning):
    found = fit_positions(make(1, reciprocal(*parameters), noise=np.random.default_rng(0), counts=[100_000] * 64))
    assert not found.fit.identified
    assert any(warning in each for each in found.fit.warnings)
    assert found.fit.rate_low is None or found.fit.rate_high is None


def test_what_stays_identified_is_right_where_the_rate_is_not(make, reciprocal):
    found = fit_positions(make(1, reciprocal(300.0, 1000.0, 4.0), noise=np.random.default_rng(0), counts=[10**6] * 64))
    assert found.fit.rate_high is None
    assert found.ratio == pytest.approx(0.3, rel=0.2)
    assert found.fit.floor == pytest.approx(4.0, abs=0.01)


def test_losses_that_do_not_depend_on_the_position_have_no_r2(make):
    found = fit_positions(make(1, np.full(64, 4.0)))
    assert found.fit.r2 == pytest.approx(0, abs=1e-9)
    assert not found.fit.identified


def test_positions_count_by_their_tokens_and_those_without_any_not_at_all(make, reciprocal):
    means = reciprocal(2.0, 0.3, 4.0)
    wrong = means.copy()
    wrong[10] = 90.0
    counts = np.full(64, 1000)
    counts[10] = 0
    found = fit_positions(make(1, wrong, counts=counts))
    assert found.fit.rate == pytest.approx(0.3, rel=1e-4)


def test_log_bins_are_as_wide_as_their_ratio_and_weigh_by_tokens():
    position = np.arange(1, 17).astype(float)
    assert log_bins(position, 1).tolist() == [0, 1, 1, 2, 2, 2, 2, *[3] * 8, 4]
    counts = np.ones(16)
    counts[1] = 3
    assert binned(position, counts, log_bins(position, 1))[:2].tolist() == [1.0, 2.25]
