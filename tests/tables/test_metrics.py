from __future__ import annotations

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.tables.metrics import METRICS, metric


def test_every_metric_says_what_it_is() -> None:
    for name, each in METRICS.items():
        assert each.label, name
        assert each.formula, name
        assert each.scale > 0, name


@pytest.mark.parametrize(
    ("name", "label", "direction", "scale"),
    [
        ("arc_easy_acc", "arc_easy acc", "higher", 100.0),
        ("hellaswag_acc_norm", "hellaswag acc_norm", "higher", 100.0),
        ("lambada_ppl", "lambada perplexity", "lower", 1.0),
    ],
)
def test_metrics_of_harness_tasks_follow_the_task(name: str, label: str, direction: str, scale: float) -> None:
    found = metric(name)
    assert (found.label, found.direction, found.scale) == (label, direction, scale)


@pytest.mark.parametrize("name", ["val_los", "", "_acc", "acc"])
def test_an_unknown_metric_is_refused_with_those_known(name: str) -> None:
    with pytest.raises(RetraceError, match=r"unknown metric .*val_loss.*speedup.*<task>_acc_norm"):
        metric(name)


def test_headings_carry_direction_and_unit() -> None:
    assert METRICS["val_loss"].heading == "validation loss ↓ (nats)"
    assert METRICS["vocab_size"].heading == "vocabulary"
    assert METRICS["average_accuracy"].heading == "ACC ↑ (%)"
