"""`forecast positions`: a fit an evaluation, few lines, and honest blanks."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest

from pipelines.forecast.positions import FITS, positions
from pipelines.forecast.spec import PositionsSpec
from pipelines.megatron.position_losses import write_position_losses
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.runs.verb import Execution


def run(tmp_path, evaluations):
    for name in ("run", "out"):
        (tmp_path / name).mkdir()
    write_position_losses(tmp_path / "run", evaluations)
    with closing(Job(tmp_path / "out", "key", Execution())) as job:
        final = positions(PositionsSpec(), {"run": tmp_path / "run"}, job)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    return final, lines, json.loads((tmp_path / "out" / FITS).read_text())


def test_every_evaluation_has_its_fit_and_the_last_one_its_bins(tmp_path, make, reciprocal):
    final, lines, fits = run(tmp_path, [make(step, reciprocal(2 + step, 0.3, 5 - step)) for step in (1, 2, 3)])
    assert [(each["step"], each["warnings"]) for each in fits] == [(1, []), (2, []), (3, [])]
    assert [each["a0"] for each in fits] == pytest.approx([3, 4, 5], rel=1e-3)
    assert [line["a2"] for line in lines if "a2" in line] == pytest.approx([4, 3, 2], rel=1e-3)
    bins = [line for line in lines if "position" in line]
    # 64 positions in half octaves: 1, 2, 3, 4-5, 6-7, 8-11, 12-15, ... 64.
    assert len(bins) == 12
    assert bins[0]["position_loss"] == pytest.approx(5 / 1.3 + 2)
    assert all(line["fitted_loss"] == pytest.approx(line["position_loss"], rel=1e-4) for line in bins)
    assert final["position_a1"] == pytest.approx(0.3, rel=1e-3)
    assert final["identified_share"] == 1


def test_numbers_that_are_not_identified_are_left_blank_and_warned_about(tmp_path, make, reciprocal, capsys):
    noise = np.random.default_rng(0)
    final, _, fits = run(tmp_path, [make(7, reciprocal(300, 1000, 4), noise=noise, counts=[100_000] * 64)])
    assert (final["position_a0"], final["position_a1"]) == (None, None)
    assert final["position_ratio"] == pytest.approx(0.3, rel=0.2)
    assert final["identified_share"] == 0
    assert "only a0 / a1 is identified" in fits[0]["warnings"][0]
    assert "warning: step 7: a1 i >> 1" in capsys.readouterr().err


def test_a_line_over_positions_leaves_no_number_known(tmp_path, make, reciprocal):
    noise = np.random.default_rng(0)
    final, _, _ = run(tmp_path, [make(7, reciprocal(9, 1e-4, 4), noise=noise, counts=[100_000] * 64)])
    assert {final[f"position_{name}"] for name in ("a0", "a1", "a2", "ratio")} == {None}


def test_sequences_too_short_for_three_numbers_are_refused(tmp_path, make):
    with pytest.raises(RetraceError, match="sequences of 4 positions, and a fit needs 5"):
        run(tmp_path, [make(1, [4.0, 3.0, 2.0, 1.0])])
