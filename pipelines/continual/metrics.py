"""Metrics of a task sequence, from its accuracy matrix.

``R[t][i]`` is the accuracy on task ``i`` after training on task ``t``; row 0 is the model before training, so a
sequence of ``T`` tasks has ``T + 1`` rows. The formulas count tasks from 1. Everything is a macro average over tasks;
a cell that was not measured is None (or lies beyond the end of its row) and using it is an error, never a zero.
Formulas: Lopez-Paz and Ranzato 2017 (ACC, BWT, FWT) and Chaudhry et al. 2018 (forgetting).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from pipelines.runs.errors import RetraceError

Matrix = Sequence[Sequence[float | None]]
"""``T + 1`` rows of up to ``T`` cells."""

FORMULAS = {
    "average_accuracy": "mean_i R[T,i]",
    "backward_transfer": "mean_{i<T} (R[T,i] - R[i,i])",
    "forward_transfer": "mean_{i>1} (R[i-1,i] - R[0,i])",
    "forgetting": "mean_{i<T} (max_{i<=l<T} R[l,i] - R[T,i])",
    "learning_accuracy": "mean_i R[i,i]",
}


def average_accuracy(matrix: Matrix) -> float:
    """ACC: mean accuracy over all tasks after the last one."""
    last = _num_tasks(matrix)
    return fmean(_cell(matrix, last, task) for task in range(1, last + 1))


def backward_transfer(matrix: Matrix) -> float:
    """BWT: mean change of a task's accuracy from right after it to the end of the sequence; needs two tasks."""
    last = _num_tasks(matrix, at_least=2)
    return fmean(_cell(matrix, last, task) - _cell(matrix, task, task) for task in range(1, last))


def forward_transfer(matrix: Matrix) -> float:
    """FWT: mean gain on a task, before it is trained, over the model before any training; needs two tasks."""
    last = _num_tasks(matrix, at_least=2)
    return fmean(_cell(matrix, task - 1, task) - _cell(matrix, 0, task) for task in range(2, last + 1))


def forgetting(matrix: Matrix) -> float:
    """Mean drop from a task's best accuracy since it was trained to its last; at least minus BWT; needs two tasks."""
    last = _num_tasks(matrix, at_least=2)
    return fmean(
        max(_cell(matrix, row, task) for row in range(task, last)) - _cell(matrix, last, task)
        for task in range(1, last)
    )


def learning_accuracy(matrix: Matrix) -> float:
    """Mean accuracy on each task right after training on it."""
    return fmean(_cell(matrix, task, task) for task in range(1, _num_tasks(matrix) + 1))


def sequence_metrics(matrix: Matrix) -> dict[str, float]:
    """Every metric of a full matrix; those that compare tasks are left out of a sequence of one.

    Raises:
        RetraceError: a cell that a formula needs is missing.
    """
    needs_one: dict[str, Callable[[Matrix], float]] = {
        "average_accuracy": average_accuracy,
        "learning_accuracy": learning_accuracy,
    }
    needs_two: dict[str, Callable[[Matrix], float]] = {
        "backward_transfer": backward_transfer,
        "forward_transfer": forward_transfer,
        "forgetting": forgetting,
    }
    metrics = needs_one if _num_tasks(matrix) == 1 else needs_one | needs_two
    return {name: metrics[name](matrix) for name in FORMULAS if name in metrics}


def _num_tasks(matrix: Matrix, at_least: int = 1) -> int:
    num_tasks = len(matrix) - 1
    if num_tasks < at_least:
        raise RetraceError(
            f"an accuracy matrix of {max(num_tasks, 0)} tasks cannot give this metric: it needs {at_least} tasks, "
            "and a row 0 of accuracies before training"
        )
    return num_tasks


def _cell(matrix: Matrix, row: int, task: int) -> float:
    cells = matrix[row]
    value = cells[task - 1] if task <= len(cells) else None
    if value is None:
        raise RetraceError(
            f"accuracy matrix: R[{row},{task}] is missing (row 0 is before training); evaluate every task after each"
        )
    return value
