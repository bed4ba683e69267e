from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tables.verdict import VERDICTS, Interval, judge, t_interval

DIFFERENCES = st.lists(st.integers(-1000, 1000).map(lambda k: k / 64), min_size=1, max_size=8)
# The same examples every time, and no time limit on a busy machine.
steady = settings(deadline=None, derandomize=True)


def test_interval_of_three_differences_by_hand() -> None:
    # mean 2, sd 1, t(0.975, 2) = 4.302653: 2 +- 4.302653 / sqrt(3)
    interval = t_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.low == pytest.approx(-0.484138, abs=1e-6)
    assert interval.high == pytest.approx(4.484138, abs=1e-6)


def test_interval_of_two_differences_by_hand() -> None:
    # mean 0.5, sd 0.141421, t(0.975, 1) = 12.706205: 0.5 +- 12.706205 * 0.1
    interval = t_interval([0.4, 0.6])
    assert interval.low == pytest.approx(0.5 - 1.2706205, abs=1e-6)
    assert interval.high == pytest.approx(0.5 + 1.2706205, abs=1e-6)


def test_interval_at_another_confidence_by_hand() -> None:
    # t(0.95, 2) = 2.919986
    assert t_interval([1.0, 2.0, 3.0], confidence=0.9).low == pytest.approx(2 - 2.919986 / math.sqrt(3), abs=1e-6)


def test_interval_agrees_with_scipy_stats() -> None:
    from scipy import stats

    differences = [0.3, -0.1, 0.7, 0.2, 0.4]
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    interval = t_interval(differences)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.1, 0.9], "reproduced"),
        ([1.0, 2.0, 3.0], "trend"),
        ([-1.0, -2.0, -3.0], "inconclusive"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([5.0], "inconclusive"),
        ([-5.0], "inconclusive"),
        ([0.1, 0.1, 0.1], "reproduced"),
        ([-0.1, -0.1], "contradicted"),
        ([0.0, 0.0, 0.0], "inconclusive"),
        ([1.0, -1.0], "inconclusive"),
    ],
)
def test_verdict_of(differences: list[float], verdict: str) -> None:
    assert judge(t_interval(differences)) == verdict


def test_an_interval_that_touches_zero_is_not_wholly_on_a_side() -> None:
    assert judge(Interval(1.0, 0.0, 2.0, 3)) == "trend"
    assert judge(Interval(-1.0, -2.0, 0.0, 3)) == "inconclusive"


def test_equal_differences_have_a_point_for_an_interval() -> None:
    assert t_interval([0.1] * 7) == Interval(0.1, 0.1, 0.1, 7)


def test_no_differences_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


@steady
@given(DIFFERENCES)
def test_the_interval_holds_its_mean(differences: list[float]) -> None:
    interval = t_interval(differences)
    assert interval.low <= interval.mean <= interval.high


@steady
@given(DIFFERENCES)
def test_turning_every_sign_mirrors_the_interval(differences: list[float]) -> None:
    one, other = t_interval(differences), t_interval([-each for each in differences])
    assert (other.low, other.mean, other.high) == (-one.high, -one.mean, -one.low)


@steady
@given(DIFFERENCES, st.sampled_from([0.5, 2.0, 64.0]))
def test_the_unit_does_not_change_the_verdict(differences: list[float], scale: float) -> None:
    assert judge(t_interval(differences)) == judge(t_interval([each * scale for each in differences]))


@steady
@given(DIFFERENCES)
def test_reproduced_and_contradicted_are_opposites(differences: list[float]) -> None:
    mirrored = {"reproduced": "contradicted", "contradicted": "reproduced"}
    verdict = judge(t_interval(differences))
    other = judge(t_interval([-each for each in differences]))
    assert verdict in VERDICTS
    if verdict in mirrored:
        assert other == mirrored[verdict]
    else:
        assert other not in mirrored


@steady
@given(st.permutations([0.3, -0.1, 0.7, 0.25]))
def test_the_order_of_the_seeds_does_not_change_the_verdict(differences: list[float]) -> None:
    assert judge(t_interval(differences)) == judge(t_interval(sorted(differences)))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_intervals_cover_the_true_mean_as_often_as_they_say(confidence: float) -> None:
    import numpy as np

    draws = np.random.Generator(np.random.PCG64(0)).normal(1.0, 2.0, size=(1500, 4))
    intervals = [t_interval(draw.tolist(), confidence) for draw in draws]
    covered = sum(each.low <= 1.0 <= each.high for each in intervals) / len(intervals)
    assert covered == pytest.approx(confidence, abs=0.03)


def test_every_pair_of_signs_gets_a_verdict() -> None:
    seen = {judge(t_interval(list(each))) for each in product([-2.0, -1.9, 0.0, 1.9, 2.0], repeat=3)}
    assert seen == set(VERDICTS) - {"not run at this scale"}
