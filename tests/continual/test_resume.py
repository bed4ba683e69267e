"""A sequence that is killed and run again ends in the same bits, wherever it was killed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch

from pipelines.continual.protocol import Strategy

METHODS = {
    "ft": "ft",
    "migu": {"name": "migu", "mask_first_task": True},
    "migu-restore": {"name": "migu", "policy": "restore", "moments": "frozen"},
    "migu-random": {"name": "migu", "selection": "random", "mask_first_task": True},
}
# Two tasks of three steps, and three rows of two cells; each is one forward pass.
FORWARD_PASSES = 12


class Killed(Exception):
    """Stands for a signal in the middle of a forward pass."""


@dataclass
class Outcome:
    """What a run leaves: weights, and everything it says."""

    weights: dict[str, torch.Tensor]
    said: tuple


@pytest.fixture
def outcome(train, make_job):
    """``outcome("llama", method, name, dies_in=n)``: train under a job's name; Killed in the n-th forward pass."""

    def run(family, method, name, dies_in=None, **changes):
        job = make_job(name, checkpoint_seconds=0)
        (job.out / "metrics.jsonl").unlink(missing_ok=True)
        passes = itertools.count(1)

        def watch(strategy, model):
            def kill(_module, _arguments):
                if next(passes) == dies_in:
                    raise Killed

            model.register_forward_pre_hook(kill)

        model, strategy, sequence = train(family, method, job=job, watch=watch, **changes)
        weights = {key: each.detach().clone() for key, each in model.named_parameters()}
        lines = (job.out / "metrics.jsonl").read_text()
        return Outcome(weights, (sequence.matrix, sequence.tokens, strategy.metrics(), lines))

    return run


def same(one: Outcome, other: Outcome) -> bool:
    return one.said == other.said and all(torch.equal(each, other.weights[key]) for key, each in one.weights.items())


FAMILIES = [*(("llama", method) for method in METHODS), ("mixtral", "migu"), ("t5", "migu"), ("roberta", "migu")]


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize(("family", "method"), FAMILIES)
def test_a_job_killed_in_every_step_and_every_cell_in_turn_ends_in_the_same_bits(family, method, adapter, outcome):
    options = {"adapter": adapter, "lora_rank": 2, "lora_dropout": 0.1 if adapter == "lora" else 0.0}
    whole = outcome(family, METHODS[method], "whole", **options)
    # Every attempt does what the one before died in, then dies in the next: one unit of work an attempt.
    for _ in range(FORWARD_PASSES - 1):
        with pytest.raises(Killed):
            outcome(family, METHODS[method], "killed", dies_in=2, **options)
    assert same(whole, outcome(family, METHODS[method], "killed", dies_in=2, **options))


@pytest.mark.parametrize("passes", [1, 2, 3, 5, 6, 8, 12])
def test_the_attempt_after_a_kill_does_only_what_is_left(passes, outcome):
    whole = outcome("llama", "migu", "whole")
    with pytest.raises(Killed):
        outcome("llama", "migu", "killed", dies_in=passes)
    left = FORWARD_PASSES - (passes - 1)
    with pytest.raises(Killed):
        outcome("llama", "migu", "killed", dies_in=left)
    assert same(whole, outcome("llama", "migu", "killed", dies_in=2))


class Importance(Strategy):
    """A method with tensors of its own: gradients shrink by what they have summed up to; a task starts from half."""

    def __init__(self, model):
        self.weights = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.sums = {name: torch.zeros_like(each) for name, each in self.weights.items()}
        self.steps_of_task = {}

    def begin_task(self, task_index, optimizer):
        self.task = str(task_index)
        self.steps_of_task[self.task] = 0
        self.sums = {name: each / 2 for name, each in self.sums.items()}

    def after_backward(self):
        self.steps_of_task[self.task] += 1
        for name, each in self.weights.items():
            self.sums[name] += each.grad.square()
            each.grad /= 1 + self.sums[name]

    def metrics(self):
        return {f"steps_of_task{task}": steps for task, steps in self.steps_of_task.items()}

    def state_dict(self):
        return {**self.sums, "steps_of_task": self.steps_of_task}

    def load_state_dict(self, state):
        self.steps_of_task = state["steps_of_task"]
        self.sums = {name: state[name] for name in self.sums}


class ImportanceMethod:
    def start(self, model, seed):
        return Importance(model)


def test_a_methods_own_tensors_and_counts_are_continued_inside_and_between_tasks(outcome):
    whole = outcome("llama", ImportanceMethod(), "whole")
    assert not same(whole, outcome("llama", "ft", "plain"))
    for _ in range(FORWARD_PASSES - 1):
        with pytest.raises(Killed):
            outcome("llama", ImportanceMethod(), "killed", dies_in=2)
    killed = outcome("llama", ImportanceMethod(), "killed")
    assert same(whole, killed)
    assert killed.said[2] == {"steps_of_task0": 3, "steps_of_task1": 3}
