"""Which parameters of a grown model cannot learn: no gradient at the first step, or a twin that stays a twin.

Both are read off one backward pass (``megatron.definition.gradients_of``), a parameter at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pipelines.growth.depth import layer_of
from pipelines.growth.slices import Shape, blocks, expert_of, parts

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.megatron.definition import Gradient

TWIN_TOLERANCE = 1e-9
"""Relative difference of two gradients that float64 rounding explains."""


@dataclass
class Liveness:
    """Blocks of parameters without any gradient at the first step.

    Attributes:
        num_parameters: of the grown model.
        num_dead_parameters: in blocks whose gradient is exactly zero.
        dead: block (as ``slices.blocks`` labels them) -> layers where it is dead; [] outside the layers.
        norms: block -> gradient norm over all layers.
    """

    num_parameters: int = 0
    num_dead_parameters: int = 0
    dead: dict[str, list[int]] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)

    def add(self, gradient: Gradient, base: Shape, grown: Shape) -> None:
        """Take one parameter's gradient in. Experts that no token visited say nothing and are left out."""
        self.num_parameters += gradient.gradient.numel()
        if expert_of(gradient.name) is not None and not gradient.gradient.any():
            return
        layer = layer_of(gradient.name)
        for label, block in blocks(gradient.name, gradient.gradient, base, grown):
            norm = float(block.norm())
            self.norms[label] = (self.norms.get(label, 0.0) ** 2 + norm**2) ** 0.5
            if norm == 0.0:
                self.num_dead_parameters += block.numel()
                where = self.dead.setdefault(label, [])
                if layer is not None:
                    where.append(layer)

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        dead = {label: sorted(layers) for label, layers in sorted(self.dead.items())}
        return {"num_dead_parameters": self.num_dead_parameters, "dead": dead}


def liveness(gradients: Iterable[Gradient], base: Shape, grown: Shape) -> Liveness:
    """Read a backward pass for blocks that get no gradient."""
    found = Liveness()
    for gradient in gradients:
        found.add(gradient, base, grown)
    return found


@dataclass
class Twins:
    """Units that duplicate an earlier one, and how many of them an optimizer could ever tell apart.

    A unit is a residual dimension (all that writes to it: embedding column, rows of both output projections), a
    feed-forward unit (its rows of gate and up) or a query head (its rows). Elementwise optimizers such as AdamW, from
    equal moments and with equal decay, keep units together whose weights and gradients are equal: then the capacity
    that duplication added is dead. Units that are zero throughout are unborn, not twins.

    Attributes:
        before: kind -> units equal to an earlier one, of their layer where they lie in one.
        after: kind -> those that the first step leaves equal.
    """

    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    _residual: Units | None = None

    def add(self, gradient: Gradient, shape: Shape) -> None:
        """Take one parameter and its gradient in."""
        for kind, weights, slopes in _incoming(gradient, shape):
            if kind == "residual":
                self._residual = self._residual or Units(len(weights))
                self._residual.part(weights, slopes)
            else:
                units = Units(len(weights))
                units.part(weights, slopes)
                self._count(kind, units)

    def close(self) -> Twins:
        """Count the residual dimensions, once every parameter has been seen."""
        if self._residual is not None:
            self._count("residual", self._residual)
        return self

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {"before": self.before, "after_first_step": self.after}

    def _count(self, kind: str, units: Units) -> None:
        self.before[kind] = self.before.get(kind, 0) + units.num_twins(units.weight_class)
        self.after[kind] = self.after.get(kind, 0) + units.num_twins(units.class_after)


class Units:
    """Classes of equal units, refined by every matrix that they have rows in."""

    def __init__(self, size: int) -> None:
        self.weight_class = [0] * size
        self.class_after = [0] * size
        self.born = [False] * size

    def part(self, weights: Tensor, slopes: Tensor) -> None:
        """Part units whose rows [units, any] differ in weights; of the others, those whose gradients do."""
        # Digests, so that no second copy of the weights is held; adding zero makes -0.0 the 0.0 that it equals.
        rows = [hashlib.blake2b((row + 0.0).numpy().tobytes(), digest_size=16).digest() for row in weights]
        self.born = [born or bool(row.any()) for born, row in zip(self.born, weights, strict=True)]
        self.weight_class = _numbered(zip(self.weight_class, rows, strict=True))
        together = _numbered(zip(self.class_after, self.weight_class, strict=True))
        members: dict[int, list[int]] = {}
        for unit, label in enumerate(together):
            alike = members.setdefault(label, [])
            same = (each for each in alike if _same(slopes[unit], slopes[each]))
            if (first := next(same, None)) is None:
                alike.append(first := unit)
            # Every class is named by its first unit.
            self.class_after[unit] = first

    def num_twins(self, classes: list[int]) -> int:
        """Units equal to an earlier one."""
        born = [label for label, born in zip(classes, self.born, strict=True) if born]
        return len(born) - len(set(born))


def twins(gradients: Iterable[Gradient], grown: Shape) -> Twins:
    """Read a backward pass for duplicated units."""
    found = Twins()
    for gradient in gradients:
        found.add(gradient, grown)
    return found.close()


def _incoming(gradient: Gradient, shape: Shape) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(kind of unit, weights, gradients) with a row for every unit."""
    name = gradient.name
    both = zip(parts(name, gradient.weight, shape), parts(name, gradient.gradient, shape), strict=True)
    if name.endswith("linear_qkv.weight"):
        (weight, slope), *_ = both
        # The query heads; a head's key and value are its group's.
        heads = (shape.model.num_attention_heads, -1)
        yield "head", weight.tensor.reshape(heads), slope.tensor.reshape(heads)
    elif name.endswith("linear_fc1.weight"):
        gate_up = list(both)
        weight, slope = (torch.cat([pair[side].tensor for pair in gate_up], dim=1) for side in (0, 1))
        yield "ffn", weight, slope
    elif name.endswith(("linear_proj.weight", "linear_fc2.weight")):
        yield "residual", gradient.weight, gradient.gradient
    elif name.startswith("embedding."):
        yield "residual", gradient.weight.T, gradient.gradient.T


def _numbered(keys: Iterable[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= TWIN_TOLERANCE * other.norm())
