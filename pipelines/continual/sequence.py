"""The loop over tasks: train on one after another, measure all of them after each.

Every task starts with a fresh AdamW (betas 0.9 and 0.999; weight decay on matrices only) and a constant learning rate.
The order of examples depends on (seed, place in the sequence, epoch) and dropout on (seed, place, step), so a job that
was killed and resumed ends in the same bits.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.continual.checkpoint import load_state, save_state
from pipelines.continual.families.batch import summed_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from pipelines.continual.families.batch import Family
    from pipelines.continual.prompts import EncodedTask, Ids
    from pipelines.continual.protocol import Strategy
    from pipelines.continual.spec import FinetuneSpec
    from pipelines.runs.job import Job

CHECKPOINT_SECONDS = 60.0


class TaskSequence:
    """One job's training.

    Attributes:
        matrix: accuracies; row 0 before training, row t after task t, one column a task.
        tokens: real tokens trained on so far.
        trainable: parameters that move, by name.
    """

    def __init__(
        self,
        spec: FinetuneSpec,
        tasks: list[EncodedTask],
        model: PreTrainedModel,
        family: Family,
        job: Job,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        self.spec = spec
        self.tasks = tasks
        self.model = model
        self.family = family
        self.job = job
        self.checkpoint_seconds = checkpoint_seconds
        self.trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.matrix: list[list[float]] = []
        self.tokens = 0
        self._step = 0
        self._lines: list[dict[str, Any]] = []

    def run(self, strategy: Strategy) -> None:
        """Train on every task in order, from the job's last checkpoint if it left one."""
        started_from = load_state(self.job.work, self.trainable)
        first_task, skip = 0, 0
        if started_from is not None:
            first_task, skip = started_from["task_index"], started_from["steps_done"]
            self.matrix, self.tokens = started_from["matrix"], started_from["tokens"]
            self._step = started_from["step"]
            for line in started_from["lines"]:
                self._log(**line)
        self._last_checkpoint = time.monotonic()
        total = sum(self._steps_in(task) for task in self.tasks)
        with self.job.progress(total, "finetune") as self._bar:
            self._bar.advance(self._step)
            if not self.matrix:
                self._evaluate("none")
            for index in range(first_task, len(self.tasks)):
                self._train(index, strategy, started_from if skip else None, skip)
                started_from, skip = None, 0
                self._evaluate(self.tasks[index].name)

    def _train(self, index: int, strategy: Strategy, resumed: dict[str, Any] | None, skip: int) -> None:
        task = self.tasks[index]
        optimizer = make_optimizer(self.trainable, self.spec)
        strategy.begin_task(index, optimizer)
        if resumed is not None:
            optimizer.load_state_dict(resumed["optimizer"])
            strategy.load_state_dict(resumed["strategy"])
        self.model.train()
        for step, examples in enumerate(self._batches(index)):
            if step < skip:
                continue
            seed = np.random.SeedSequence([self.spec.seed, index, step]).generate_state(1)[0]
            torch.manual_seed(int(seed))
            loss, grad_norm = self._optimiser_step(examples, task, optimizer, strategy)
            self._step += 1
            self._log(step=self._step, task=task.name, tokens=self.tokens, loss=loss, grad_norm=grad_norm)
            self._bar.advance(1, f"{task.name} loss {loss:.3f}")
            if time.monotonic() - self._last_checkpoint >= self.checkpoint_seconds:
                self._checkpoint(index, step + 1, optimizer, strategy)
        strategy.end_task()

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

    def _evaluate(self, after: str) -> None:
        """Append a row to the matrix: accuracy on the test split of every task."""
        row = [self._accuracy(task) for task in self.tasks]
        self.matrix.append(row)
        accuracies = {f"{task.name}_acc": accuracy for task, accuracy in zip(self.tasks, row, strict=True)}
        self._log(step=self._step, task=after, tokens=self.tokens, **accuracies)

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

    def _log(self, **line: Any) -> None:
        self._lines.append(line)
        self.job.log(**line)

    def _checkpoint(self, index: int, steps_done: int, optimizer: torch.optim.Optimizer, strategy: Strategy) -> None:
        save_state(
            self.job.work,
            self.trainable,
            {
                "task_index": index,
                "steps_done": steps_done,
                "step": self._step,
                "tokens": self.tokens,
                "matrix": self.matrix,
                "lines": self._lines,
                "optimizer": optimizer.state_dict(),
                "strategy": strategy.state_dict(),
            },
        )
        self._last_checkpoint = time.monotonic()


def make_optimizer(trainable: dict[str, torch.nn.Parameter], spec: FinetuneSpec) -> torch.optim.AdamW:
    """A fresh AdamW; biases and norms (vectors) do not decay."""
    matrices = [each for each in trainable.values() if each.dim() > 1]
    vectors = [each for each in trainable.values() if each.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=spec.lr, fused=True)
