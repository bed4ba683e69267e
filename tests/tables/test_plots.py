from __future__ import annotations

import pytest

from pipelines.tables.plots import mean_curve


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
