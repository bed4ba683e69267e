"""The loop over tasks: train on one after another, measure all of them after each.

Every task starts with a fresh AdamW (betas 0.9 and 0.999; weight decay on matrices only) and a constant learning rate.
The order of examples depends on (seed, place in the sequence, epoch) and dropout on (seed, place, step), so a job that
was killed and resumed ends in the same bits. It can be stopped after every optimiser step and every cell of the matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.continual.checkpoint import capture, strategy_state
from pipelines.continual.families.batch import summed_loss
from pipelines.runs.adamw_state import restore_optimizer, restore_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from pipelines.continual.families.batch import Family
    from pipelines.continual.prompts import EncodedTask, Ids
    from pipelines.continual.protocol import Strategy
    from pipelines.continual.spec import FinetuneSpec
    from pipelines.runs.checkpoints import Checkpoint
    from pipelines.runs.job import Job


class TaskSequence:
    """One job's training.

    Attributes:
        matrix: accuracies; row 0 before training, row t after task t, one column a task. While its last row is being
            measured that row is short; once it is full, the task of its number (from 0) is trained.
        tokens: real tokens trained on so far.
        trainable: parameters that move, by name.
    """

    def __init__(
        self, spec: FinetuneSpec, tasks: list[EncodedTask], model: PreTrainedModel, family: Family, job: Job
    ) -> None:
        self.spec = spec
        self.tasks = tasks
        self.model = model
        self.family = family
        self.job = job
        self.trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.matrix: list[list[float]] = [[]]
        self.tokens = 0
        self._step = 0
        self._steps_in_task = 0

    def run(self, strategy: Strategy) -> None:
        """Train on every task in order, from the job's last checkpoint if it left one."""
        total = sum(self._steps_in(task) for task in self.tasks) + (len(self.tasks) + 1) * len(self.tasks)
        with self.job.resumable() as self._checkpoints:
            inside_task = self._resume(strategy)
            with self.job.progress(total, "finetune", done=self._done) as self._bar:
                self._evaluate(strategy)
                while len(self.matrix) <= len(self.tasks):
                    self._train(len(self.matrix) - 1, strategy, inside_task)
                    inside_task = None
                    self.matrix.append([])
                    self._evaluate(strategy)

    @property
    def _done(self) -> int:
        """Optimiser steps and cells of the matrix so far: what progress and checkpoints count."""
        return self._step + sum(map(len, self.matrix))

    def _resume(self, strategy: Strategy) -> Checkpoint | None:
        """Take up the last checkpoint; it is returned where it lies inside a task, which has to take up the rest."""
        resumed = self._checkpoints.load()
        if resumed is None:
            return None
        facts = resumed.facts
        self.matrix, self.tokens = facts["matrix"], facts["tokens"]
        self._step, self._steps_in_task = facts["step"], facts["steps_in_task"]
        restore_weights(resumed.tensors, self.trainable)
        if self._steps_in_task:
            return resumed
        strategy.load_state_dict(strategy_state(resumed.tensors, facts["strategy"]))
        return None

    def _train(self, index: int, strategy: Strategy, resumed: Checkpoint | None) -> None:
        task = self.tasks[index]
        optimizer = make_optimizer(self.trainable, self.spec)
        strategy.begin_task(index, optimizer)
        if resumed is not None:
            restore_optimizer(resumed.tensors, self.trainable, optimizer)
            strategy.load_state_dict(strategy_state(resumed.tensors, resumed.facts["strategy"]))
        self.model.train()
        for step, examples in enumerate(self._batches(index)):
            if step < self._steps_in_task:
                continue
            seed = np.random.SeedSequence([self.spec.seed, index, step]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            loss, grad_norm = self._optimiser_step(examples, task, optimizer, strategy)
            self._step, self._steps_in_task = self._step + 1, step + 1
            self.job.log(step=self._step, task=task.name, tokens=self.tokens, loss=loss, grad_norm=grad_norm)
            self._step_done(f"{task.name} loss {loss:.3f}", strategy, optimizer)
        strategy.end_task()
        self._steps_in_task = 0

    def _optimiser_step(
        self, examples: list[tuple[Ids, int]], task: EncodedTask, optimizer: torch.optim.Optimizer, strategy: Strategy
    ) -> tuple[float, float]:
        """One step over all micro-batches; returns the mean loss of a label token and the gradient norm."""
        # The whole batch is padded alike and the loss divided by its own count: micro-batches change neither.
        batch = self.family.collate(examples, task)
        size = self.spec.micro_batch_size or len(examples)
        optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for first in range(0, len(examples), size):
            micro = batch.rows(first, min(first + size, len(examples)))
            strategy.before_forward(micro.masks)
            with self._precision():
                logits_BKC = self.family.label_logits(micro)
            strategy.after_forward()
            micro_loss = summed_loss(logits_BKC, micro.labels_BK) / batch.num_labels
            micro_loss.backward()
            loss += micro_loss.item()
        strategy.after_backward()
        limit = self.spec.clip_grad or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(self.trainable.values(), limit).item()
        strategy.before_step()
        optimizer.step()
        strategy.after_step()
        self.tokens += batch.num_tokens
        return loss, grad_norm

    def _evaluate(self, strategy: Strategy) -> None:
        """Fill the last row of the matrix: accuracy on the test split of every task."""
        row = self.matrix[-1]
        while len(row) < len(self.tasks):
            task = self.tasks[len(row)]
            row.append(self._accuracy(task))
            if len(row) == len(self.tasks):
                after = self.tasks[len(self.matrix) - 2].name if len(self.matrix) > 1 else "none"
                accuracies = {f"{each.name}_acc": accuracy for each, accuracy in zip(self.tasks, row, strict=True)}
                self.job.log(step=self._step, task=after, tokens=self.tokens, **accuracies)
            self._step_done(f"{task.name} acc {row[-1]:.3f}", strategy, None)

    def _accuracy(self, task: EncodedTask) -> float:
        self.model.eval()
        # Neighbours of like length waste little padding; the order changes no prediction.
        ordered = sorted(task.test, key=lambda example: len(example[0]))
        right = 0
        with torch.inference_mode(), self._precision():
            for first in range(0, len(ordered), self.spec.eval_batch_size):
                examples = ordered[first : first + self.spec.eval_batch_size]
                predicted = self.family.predict([prompt for prompt, _ in examples], task)
                right += sum(guess == label for guess, (_, label) in zip(predicted, examples, strict=True))
        return right / len(ordered)

    def _batches(self, index: int) -> Iterator[list[tuple[Ids, int]]]:
        examples = self.tasks[index].train
        for epoch in range(self.spec.epochs):
            random = np.random.default_rng(np.random.SeedSequence([self.spec.seed, index, epoch]))
            order = random.permutation(len(examples))
            for first in range(0, len(order), self.spec.batch_size):
                yield [examples[place] for place in order[first : first + self.spec.batch_size]]

    def _steps_in(self, task: EncodedTask) -> int:
        return self.spec.epochs * -(-len(task.train) // self.spec.batch_size)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16")

    def _step_done(self, note: str, strategy: Strategy, optimizer: torch.optim.Optimizer | None) -> None:
        """Show progress, write a checkpoint if one is due, and end here if the job was asked to."""
        self._bar.advance(1, note)

        def state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
            tensors, facts = capture(self.trainable, optimizer, strategy)
            place = {"step": self._step, "steps_in_task": self._steps_in_task, "tokens": self.tokens}
            return tensors, {**place, "matrix": self.matrix, "strategy": facts}

        self._checkpoints.after_step(self._done, state)


def make_optimizer(trainable: dict[str, torch.nn.Parameter], spec: FinetuneSpec) -> torch.optim.AdamW:
    """A fresh AdamW; biases and norms (vectors) do not decay."""
    matrices = [each for each in trainable.values() if each.dim() > 1]
    vectors = [each for each in trainable.values() if each.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=spec.lr, fused=True)
