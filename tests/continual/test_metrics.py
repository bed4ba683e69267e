"""Metrics against the numbers of published logs, and their refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.continual.metrics import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    sequence_metrics,
)
from pipelines.continual.metrics_command import metrics
from pipelines.runs.errors import RetraceError

# Order 1 (dbpedia, amazon, yahoo, ag) of the logs in the O-LoRA repository, commit 07117e1; row 0 was not recorded.
LOGS = {
    "SeqFT": [[], [97.0132], [89.1053, 55.25], [74.7632, 53.4474, 72.2763], [79.5263, 52.6711, 48.8421, 90.0263]],
    "O-LoRA": [[], [98.7105], [98.5526, 57.7632], [97.4079, 57.4079, 71.9079], [97.7368, 56.0658, 71.0395, 88.6184]],
    "IncLoRA": [[], [98.7105], [82.4737, 57.0132], [80.7763, 44.9474, 72.3816], [79.5, 40.8158, 64.1447, 90.0132]],
}
# ACC, BWT, forgetting, learning accuracy.
EXPECTED = {
    "SeqFT": (67.7665, -14.5000, 14.5000, 78.6414),
    "O-LoRA": (78.3651, -1.1798, 1.1798, 79.2500),
    "IncLoRA": (68.6184, -14.5483, 14.5483, 79.5296),
}


@pytest.mark.parametrize("name", LOGS)
def test_metrics_equal_those_of_the_published_logs(name):
    matrix = LOGS[name]
    found = [f(matrix) for f in (average_accuracy, backward_transfer, forgetting, learning_accuracy)]
    assert found == pytest.approx(EXPECTED[name], abs=6e-5)


def test_forward_transfer_is_the_gain_on_tasks_not_yet_trained():
    matrix = [[0.1, 0.2, 0.3], [0.9, 0.5, 0.3], [0.8, 0.9, 0.7], [0.7, 0.8, 0.9]]
    assert forward_transfer(matrix) == pytest.approx(((0.5 - 0.2) + (0.7 - 0.3)) / 2)


def test_forgetting_counts_the_best_accuracy_since_training_and_is_at_least_minus_bwt():
    matrix = [[0.0] * 3, [0.5, 0.0, 0.0], [0.8, 0.6, 0.0], [0.6, 0.6, 0.9]]
    assert forgetting(matrix) == pytest.approx((0.2 + 0.0) / 2)
    assert backward_transfer(matrix) == pytest.approx((0.1 + 0.0) / 2)
    random = np.random.default_rng(0)
    for _ in range(20):
        matrix = random.random((6, 5)).tolist()
        assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12


def test_missing_cells_raise_and_are_never_zero():
    matrix = [[0.1, 0.2], [0.9, None], [0.8, 0.9]]
    with pytest.raises(RetraceError, match="is missing"):
        sequence_metrics([[0.1, 0.2], [0.9], [0.8]])
    assert backward_transfer(matrix) == pytest.approx(-0.1)
    with pytest.raises(RetraceError, match=r"R\[1,2\] is missing"):
        forward_transfer(matrix)
    with pytest.raises(RetraceError, match=r"R\[0,2\] is missing"):
        forward_transfer([*LOGS["SeqFT"][:1], [97.0, 50.0], [89.0, 55.0]])


def test_a_sequence_of_one_task_has_no_transfer_or_forgetting():
    assert sequence_metrics([[0.25], [0.75]]) == {"average_accuracy": 0.75, "learning_accuracy": 0.75}
    with pytest.raises(RetraceError, match="needs 2 tasks"):
        backward_transfer([[0.25], [0.75]])


def test_the_command_prints_metrics_with_their_formulas(tmp_path):
    matrix = {"accuracy": [[0.1, 0.2], [0.9, 0.3], [0.7, 0.8]]}
    (tmp_path / "accuracy_matrix.json").write_text(json.dumps(matrix))
    shown = CliRunner().invoke(metrics, [str(tmp_path)]).output
    assert "average_accuracy      0.7500   mean_i R[T,i]" in shown
    as_json = CliRunner().invoke(metrics, [str(tmp_path / "accuracy_matrix.json"), "--json"]).output
    assert json.loads(as_json)["backward_transfer"] == pytest.approx(-0.2)


@pytest.mark.parametrize("content", ["{}", "[]", '{"accuracy": [["a"]]}', "nonsense"])
def test_the_command_refuses_what_is_not_a_matrix(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(content)
    result = CliRunner().invoke(metrics, [str(path)])
    assert isinstance(result.exception, RetraceError)
    assert str(path) in str(result.exception)
