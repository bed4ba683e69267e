"""Growth by a map that is learnt: trained on the language-model loss of the grown model, applied, and discarded.

LiGO (arXiv 2303.00980): the grown weights are a linear function of the base's; only the function's coefficients are
trained, for a few steps, on text that neither the base nor the grown model reads otherwise. What that costs is charged
to the grown model.

Every process of a job learns the same map on the same text, so that layouts cannot matter; the model is computed by its
definition (``megatron/definition.py``) in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.growth.protocol import GrowthMethod
from pipelines.megatron.definition import logits_of
from pipelines.megatron.flops import training_flops_per_token
from pipelines.runs.devices import prepare_cpu
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.growth.slices import Shape
    from pipelines.megatron.spec import ModelSpec
    from pipelines.runs.job import Job

MICRO_BATCH = 8
"""Sequences of a forward pass; the gradient is that of the whole batch."""


@runtime_checkable
class LearnedGrowthMethod(GrowthMethod, Protocol):
    """A growth method whose map is trained before it is applied. Its ``grow`` applies the initial map.

    Attributes:
        learn_iters: optimiser steps of the map (0: the initial one).
        learn_batch_size: sequences a step.
        learn_lr: AdamW's learning rate, constant; no weight decay.
    """

    learn_iters: int
    learn_batch_size: int
    learn_lr: float

    def initial_maps(self, base: Shape, names: Iterable[str], seed: int) -> dict[str, Tensor]:
        """Coefficients that the learning starts from, by name, in float32.

        Args:
            names: global names of the base's parameters.
        """
        ...

    def mapped(
        self, base: Shape, tensors: Mapping[str, Tensor], maps: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Every (global name, tensor) of the grown model, differentiable in the maps."""
        ...

    def map_flops(self, base: Shape, vocab_size: int) -> int:
        """Operations of applying the map once and of its backward pass (to the coefficients alone)."""
        ...


@dataclass(frozen=True)
class LearningCost:
    """What learning a map takes, before it is known.

    Attributes:
        num_sequences: training sequences read.
        tokens: predicted tokens.
        flops: operations.
    """

    num_sequences: int = 0
    tokens: int = 0
    flops: int = 0


class Learned:
    """A growth method with the map it has learnt: what ``grow`` applies."""

    def __init__(
        self, method: LearnedGrowthMethod, base: Shape, maps: Mapping[str, Tensor], losses: list[float]
    ) -> None:
        self._method, self._base, self.maps, self.losses = method, base, maps, losses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def grow(self, base: ModelSpec, tensors: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
        """As the protocol says, by the learnt map."""
        return self._method.mapped(self._base, tensors, self.maps)

    def facts(self, base: ModelSpec) -> dict[str, Any]:
        """As the protocol says, and how the loss went."""
        ends = {"first_learn_loss": self.losses[0], "last_learn_loss": self.losses[-1]} if self.losses else {}
        return {**self._method.facts(base), **ends}


def learning_cost(method: GrowthMethod, base: Shape, target: Shape, vocab_size: int) -> LearningCost:
    """What a method's learning takes; nothing for one that learns nothing."""
    if not isinstance(method, LearnedGrowthMethod):
        return LearningCost()
    sequences = method.learn_iters * method.learn_batch_size
    tokens = sequences * target.model.seq_length
    a_token = training_flops_per_token(target.model, vocab_size, target.experts)
    return LearningCost(sequences, tokens, tokens * a_token + method.learn_iters * method.map_flops(base, vocab_size))


def learn(
    method: LearnedGrowthMethod,
    base: Shape,
    target: Shape,
    tensors: Mapping[str, Tensor],
    sequences: Callable[[int, int], Tensor],
    seed: int,
    job: Job,
) -> GrowthMethod:
    """Train a method's map; the method it returns applies it (:class:`Learned`).

    Args:
        tensors: global name -> tensor of the base; all are held, and all of the grown model's.
        sequences: (first, count) -> token ids [count, seq_length + 1].

    Raises:
        RetraceError: the loss is not finite.
    """
    if method.learn_iters < 0 or method.learn_batch_size < 1 or method.learn_lr <= 0:
        raise RetraceError(
            "method: learn_iters must be at least 0, learn_batch_size at least 1 and learn_lr above 0, got "
            f"{method.learn_iters}, {method.learn_batch_size} and {method.learn_lr}"
        )
    prepare_cpu(job.execution.threads)
    on_gpu = job.execution.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", job.local_rank) if on_gpu else torch.device("cpu")
    held = {name: tensors[name].to(device, torch.float32) for name in tensors}
    maps = {name: each.to(device).requires_grad_() for name, each in method.initial_maps(base, held, seed).items()}
    optimizer = torch.optim.AdamW(maps.values(), lr=method.learn_lr, weight_decay=0.0, foreach=False)
    losses: list[float] = []
    with job.progress(method.learn_iters, "learn the map") as bar:
        for step in range(method.learn_iters):
            tokens_BS = sequences(step * method.learn_batch_size, method.learn_batch_size).to(device)
            optimizer.zero_grad()
            losses.append(backward(dict(method.mapped(base, held, maps)), target, tokens_BS))
            if not losses[-1] < float("inf"):
                raise RetraceError(f"the map's loss is {losses[-1]} at step {step + 1}: lower method.learn_lr")
            optimizer.step()
            bar.advance(1, note=f"loss {losses[-1]:.4f}")
    learnt = _of_first_rank({name: each.detach().cpu() for name, each in maps.items()}, job)
    learned: Any = Learned(method, base, learnt, losses)
    return learned


def backward(grown: Mapping[str, Tensor], target: Shape, tokens_BS: Tensor) -> float:
    """Mean loss of the grown model on token ids [B, S + 1]; its gradient goes on to what the weights are made of.

    The passes run on detached weights, so that the map is gone through once a batch and not once a micro-batch.
    """
    leaves = {name: each.detach().requires_grad_(each.requires_grad) for name, each in grown.items()}
    total = 0.0
    for rows in tokens_BS.split(MICRO_BATCH):
        logits = logits_of(leaves, target.model, target.experts, rows[:, :-1], next(iter(leaves.values())).dtype)
        summed = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
        (summed / tokens_BS[:, 1:].numel()).backward()
        total += summed.item()
    # Experts that no token chose have no gradient.
    reached = [name for name, leaf in leaves.items() if leaf.grad is not None]
    torch.autograd.backward([grown[name] for name in reached], [leaves[name].grad for name in reached])
    return total / tokens_BS[:, 1:].numel()


def _of_first_rank(maps: dict[str, Tensor], job: Job) -> dict[str, Tensor]:
    # Kernels of a GPU may differ in the last bit from rank to rank, and replicas must start equal.
    if job.world_size > 1:
        from pipelines.megatron import backend

        backend.initialize(job.execution, None)
        for each in maps.values():
            here = each.to(backend.device())
            torch.distributed.broadcast(here, src=0)
            each.copy_(here)
    return maps
