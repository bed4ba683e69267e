"""Optimiser steps over pairs, resumable after each of them to the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from pipelines.megatron.seeds import seed_of
from pipelines.runs import adamw_state
from pipelines.translation.model import IGNORED, logits_of
from pipelines.translation.training import inverse_root

if TYPE_CHECKING:
    from transformers.models.marian.modeling_marian import MarianMTModel

    from pipelines.runs.checkpoints import Checkpoint
    from pipelines.runs.job import Job
    from pipelines.tokenizer.loading import LoadedTokenizer
    from pipelines.translation.pairs import Pair
    from pipelines.translation.spec import TranslationTrainingSpec

Encoded = tuple[list[int], list[int]]
# Batches whose pairs are sorted together: little padding, and still an order that differs from epoch to epoch.
POOL = 32


def encode(tokenizer: LoadedTokenizer, pairs: Sequence[Pair]) -> list[Encoded]:
    """Ids of both sides of every pair, each ended by the tokenizer's end of document."""
    sides = []
    for place in (0, 1):
        texts = tokenizer.encode_batch(pair[place] for pair in pairs)
        sides.append([[*ids.tolist(), tokenizer.eod_id] for ids in texts])
    return list(zip(*sides, strict=True))


def batches(pairs: Sequence[Pair], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Places of the pairs of every step of an epoch: pairs of like length in bytes, in an order of its own."""
    random = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    order = random.permutation(len(pairs)).tolist()
    length = [len(source.encode()) + len(target.encode()) for source, target in pairs]
    made: list[list[int]] = []
    for first in range(0, len(order), POOL * size):
        pool = sorted(order[first : first + POOL * size], key=length.__getitem__)
        cut = [pool[start : start + size] for start in range(0, len(pool), size)]
        made += [cut[place] for place in random.permutation(len(cut)).tolist()]
    return made


class Training:
    """One run over the training pairs.

    Attributes:
        tokens: target tokens trained on so far.
        loss: mean smoothed loss of the steps since the line before the last logged one.
        validation: val_loss and val_bits_per_byte after the last epoch.
        num_cut: training pairs that were cut to ``max_length``.
    """

    def __init__(
        self,
        spec: TranslationTrainingSpec,
        seed: int,
        model: MarianMTModel,
        pairs: Sequence[Pair],
        encoded: Sequence[Encoded],
        job: Job,
    ) -> None:
        self.spec, self.seed, self.model, self.pairs, self.job = spec, seed, model, pairs, job
        self.num_cut = sum(max(map(len, pair)) > spec.max_length for pair in encoded)
        self.encoded = [(_cut(source, spec.max_length), _cut(target, spec.max_length)) for source, target in encoded]
        self.trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        betas = (spec.adam_beta1, spec.adam_beta2)
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=spec.lr, betas=betas, eps=spec.adam_eps, weight_decay=0.0, fused=True
        )
        self.tokens, self.loss, self.validation = 0, math.nan, dict[str, float]()
        self._losses: list[float] = []

    def run(self, validation: Sequence[Encoded], target_bytes: int) -> None:
        """Train from the start, or from the job's last checkpoint.

        Args:
            validation: pairs measured after every epoch.
            target_bytes: UTF-8 bytes of their target sentences.
        """
        per_epoch = math.ceil(len(self.pairs) / self.spec.batch_size)
        total = per_epoch * self.spec.epochs
        with self.job.resumable() as checkpoints:
            resumed = checkpoints.load()
            done = self._restore(resumed) if resumed else 0
            with self.job.progress(total, "train", done=done) as progress:
                for step, places in self._steps(done):
                    torch.manual_seed(seed_of(self.seed, f"step {step}"))
                    self._losses.append(self._step(step, places))
                    if step % self.spec.log_interval == 0 or step == total:
                        self.loss, self._losses = math.fsum(self._losses) / len(self._losses), []
                        self.job.log(step=step, tokens=self.tokens, loss=self.loss)
                    if step % per_epoch == 0:
                        self.validation = self._evaluate(validation, target_bytes)
                        self.job.log(step=step, tokens=self.tokens, **self.validation)
                    progress.advance(1, f"loss {self._losses[-1] if self._losses else self.loss:.3f}")
                    checkpoints.after_step(step, self._capture)

    def _steps(self, done: int) -> Iterator[tuple[int, list[int]]]:
        step = 0
        for epoch in range(self.spec.epochs):
            for places in batches(self.pairs, self.spec.batch_size, self.seed, epoch):
                step += 1
                if step > done:
                    yield step, places

    def _step(self, step: int, places: list[int]) -> float:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = inverse_root(step, self.spec.lr, self.spec.lr_warmup_iters)
        sources, targets = zip(*(self.encoded[place] for place in places), strict=True)
        logits_BTV, labels_BT = logits_of(self.model, sources, targets)
        loss = functional.cross_entropy(
            logits_BTV.flatten(0, 1),
            labels_BT.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.spec.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained.values(), self.spec.clip_grad or math.inf)
        self.optimizer.step()
        self.tokens += sum(map(len, targets))
        return loss.item()

    def _evaluate(self, pairs: Sequence[Encoded], target_bytes: int) -> dict[str, float]:
        self.model.eval()
        nats, tokens = 0.0, 0
        ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
        with torch.inference_mode():
            for first in range(0, len(ordered), self.spec.batch_size):
                sources, targets = zip(*ordered[first : first + self.spec.batch_size], strict=True)
                logits_BTV, labels_BT = logits_of(self.model, sources, targets)
                flat = functional.cross_entropy(
                    logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED, reduction="sum"
                )
                nats += flat.item()
                tokens += sum(map(len, targets))
        return {"val_loss": nats / tokens, "val_bits_per_byte": nats / math.log(2) / target_bytes}

    def _capture(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        # Dropout is seeded anew at every step, so random states are not part of it.
        facts = {"tokens": self.tokens, "loss": self.loss, "losses": self._losses, "validation": self.validation}
        return adamw_state.capture(self.trained, self.optimizer), facts

    def _restore(self, resumed: Checkpoint) -> int:
        adamw_state.restore_weights(resumed.tensors, self.trained)
        adamw_state.restore_optimizer(resumed.tensors, self.trained, self.optimizer)
        facts = resumed.facts
        self.tokens, self.loss = facts["tokens"], facts["loss"]
        self._losses, self.validation = facts["losses"], facts["validation"]
        return resumed.step


def _cut(ids: list[int], longest: int) -> list[int]:
    """At most so many ids; a sentence that was cut still ends."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]
