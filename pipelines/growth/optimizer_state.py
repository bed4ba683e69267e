"""What AdamW starts with after growth, by policy.

- ``fresh``: zero moments and step 0, as in the code of arXiv 2405.15319 (its text does not say so).
- ``project``: the moments a grown model would have gathered, by the method's ``grow_moments``: with a gradient that
  growth scales by c, the first moment by c and the second by c squared (staged training, arXiv 2203.06211).
- ``copy``: every unit's moments go with its weights, unscaled. Where a method mixes units, the mean of theirs,
  weighted by the squared factors.
- ``zero_new``: as ``copy`` for the first copy of each unit, and zeros for the others and for new units.

All but ``fresh`` keep the base's step count, so that bias correction does not come again; entries that start from
zeros then take smaller first steps than a fresh optimizer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines.megatron.checkpoint import read_optimizer
from pipelines.megatron.optimizer import MOMENTS, OptimizerState
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.growth.protocol import GrowthMethod
    from pipelines.megatron.spec import ModelSpec

Moments = dict[str, dict[str, Tensor]]


class Renamed(Mapping[str, Tensor]):
    """Tensors of a mapping whose names share a prefix, by the rest of their names, each changed when looked up."""

    def __init__(
        self, tensors: Mapping[str, Tensor], prefix: str = "", change: Callable[[str, Tensor], Tensor] | None = None
    ) -> None:
        self._tensors, self._prefix, self._change = tensors, prefix, change

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[self._prefix + name]
        return tensor if self._change is None else self._change(name, tensor)

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def grown_state(policy: str, method: GrowthMethod, model: ModelSpec, base: Path, seed: int) -> OptimizerState | None:
    """The optimizer state of a grown model; None for a fresh one.

    Args:
        model: shape of the base model.
        base: its checkpoint.
        seed: as given to the method's ``grow``.

    Raises:
        RetraceError: the base has no optimizer state, or the method has no copies for ``zero_new`` to tell apart.
    """
    if policy == "fresh":
        return None
    step, stored = read_optimizer(base, "base")
    gathered = {kind: Renamed(stored, f"{kind}/") for kind in MOMENTS}
    return OptimizerState(step, grown_moments(policy, method, model, gathered, seed))


def grown_moments(
    policy: str, method: GrowthMethod, model: ModelSpec, moments: Mapping[str, Mapping[str, Tensor]], seed: int
) -> Moments:
    """``exp_avg`` and ``exp_avg_sq`` of the grown model by global name, from the base's.

    Raises:
        RetraceError: as ``grown_state``.
    """
    if policy == "project":
        powers = zip(MOMENTS, (1, 2), strict=True)
        return {kind: dict(method.grow_moments(model, moments[kind], power, seed)) for kind, power in powers}
    factors = _factors(method, model, moments[MOMENTS[0]], seed)
    copied = {kind: dict(_unscaled(method, model, moments[kind], factors, seed)) for kind in MOMENTS}
    if policy == "zero_new":
        for name, first in _first_copies(method, model, moments[MOMENTS[0]], factors, seed):
            for kind in MOMENTS:
                copied[kind][name] *= first
    return copied


def _factors(method: GrowthMethod, model: ModelSpec, like: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Squared factor of every entry of the grown model: 0 for one that the base says nothing of."""
    ones = Renamed(like, change=lambda _, tensor: torch.ones_like(tensor))
    return dict(method.grow_moments(model, ones, 2, seed))


def _unscaled(
    method: GrowthMethod, model: ModelSpec, tensors: Mapping[str, Tensor], factors: Mapping[str, Tensor], seed: int
) -> Iterator[tuple[str, Tensor]]:
    # Squares are never negative, so what they weight is a mean: of one unit, that unit's own value.
    for name, tensor in method.grow_moments(model, tensors, 2, seed):
        yield name, torch.where(factors[name] > 0, tensor / factors[name].clamp_min(1e-30), 0.0)


def _first_copies(
    method: GrowthMethod, model: ModelSpec, like: Mapping[str, Tensor], factors: Mapping[str, Tensor], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """(name, mask that is true for an entry whose base entry no earlier entry is a copy of)."""
    offsets, size = {}, 0
    for name in like:
        offsets[name] = size
        size += like[name].numel()

    def numbered(name: str, tensor: Tensor) -> Tensor:
        numbers = torch.arange(offsets[name], offsets[name] + tensor.numel(), dtype=torch.float64)
        return numbers.reshape(tensor.shape)

    exact = {name: factor.double() for name, factor in factors.items()}
    taken = torch.zeros(size, dtype=torch.bool)
    for name, sources in _unscaled(method, model, Renamed(like, change=numbered), exact, seed):
        known = (factors[name] > 0).flatten()
        flat = sources.flatten()
        numbers = flat.round().long()
        if ((flat - numbers).abs() > 1e-3)[known].any():
            raise RetraceError(
                f"optimizer_policy zero_new: this growth mixes units of the base ({name}), so none of the grown "
                "model's is the old one: choose project, copy or fresh"
            )
        first = torch.zeros(flat.numel(), dtype=torch.bool)
        unique, inverse = numbers.unique(return_inverse=True)
        places = torch.arange(flat.numel())
        where = torch.full((unique.numel(),), flat.numel()).scatter_reduce(
            0, inverse[known], places[known], "amin", include_self=True
        )
        first[where[where < flat.numel()]] = True
        first &= ~taken[numbers] & known
        taken[numbers[known]] = True
        yield name, first.reshape(sources.shape)


def describe_state(policy: str, state: OptimizerState | None) -> dict[str, Any]:
    """What run.json says of the optimizer after growth."""
    return {"optimizer_policy": policy, "optimizer_step": 0 if state is None else state.step}
