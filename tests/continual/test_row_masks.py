"""How many rows a threshold keeps, and which."""

from __future__ import annotations

import pytest
import torch

from pipelines.continual.row_masks import num_masked, quantile_mask, random_mask, rank_mask


@pytest.mark.parametrize(
    ("rows", "kept"), [(10, 3), (11, 4), (512, 154), (1024, 308), (2816, 845), (4096, 1229), (1, 1)]
)
def test_kept_rows_are_d_minus_floor_of_t_times_d(rows, kept):
    magnitudes = torch.rand(rows, generator=torch.Generator().manual_seed(rows))
    mask = rank_mask(magnitudes, 0.7)
    assert int(mask.sum()) == kept
    assert magnitudes[mask].min() >= magnitudes[~mask].max() if kept < rows else mask.all()


def test_the_threshold_is_read_as_the_decimal_it_is_written_as():
    assert 0.29 * 100 < 29
    assert num_masked(100, 0.29) == 29


@pytest.mark.parametrize("rows", [2, 3, 7, 10, 49, 1024])
def test_one_minus_one_over_d_keeps_the_largest_row_alone(rows):
    magnitudes = torch.rand(rows, generator=torch.Generator().manual_seed(rows))
    mask = rank_mask(magnitudes, 1 - 1 / rows)
    assert mask.nonzero().flatten().tolist() == [int(magnitudes.argmax())]


def test_threshold_zero_keeps_every_row_under_every_rule():
    magnitudes = torch.tensor([0.0, 0.0, 3.0, 1.0])
    assert rank_mask(magnitudes, 0.0).all()
    assert quantile_mask(magnitudes, 0.0).all()
    assert random_mask(magnitudes, 0.0, torch.Generator()).all()


def test_of_equal_magnitudes_the_lower_index_is_masked():
    assert rank_mask(torch.tensor([1.0, 1.0, 1.0, 0.5]), 0.5).tolist() == [False, True, True, False]


def test_the_quantile_rule_of_the_released_code_differs_by_one_row_at_1024_and_keeps_ties():
    magnitudes = torch.rand(1024, generator=torch.Generator().manual_seed(0))
    assert int(quantile_mask(magnitudes, 0.7).sum()) == 307
    assert int(rank_mask(magnitudes, 0.7).sum()) == 308
    assert quantile_mask(torch.ones(10), 0.7).all()


@pytest.mark.parametrize("rule", [rank_mask, quantile_mask])
def test_masks_are_blind_to_the_scale_of_magnitudes(rule):
    magnitudes = torch.rand(5, 33, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rule(magnitudes, 0.7), rule(magnitudes * 8.0, 0.7))


def test_leading_dimensions_are_ranked_on_their_own():
    magnitudes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    assert rank_mask(magnitudes, 0.5).tolist() == [[False, False, True, True], [True, True, False, False]]


def test_the_random_control_keeps_as_many_rows_whatever_their_magnitude():
    magnitudes = torch.arange(100.0)
    generator = torch.Generator().manual_seed(0)
    first, second = (random_mask(magnitudes, 0.7, generator) for _ in range(2))
    assert int(first.sum()) == int(second.sum()) == 30
    assert not torch.equal(first, second)
    assert not torch.equal(first, rank_mask(magnitudes, 0.7))
