"""Growth in width by padding: new units after the old ones, whatever they hold.

Units are the dimensions of the residual stream, feed-forward units and whole attention heads, as in ``width.py``. Where
new dimensions of the residual stream are zero, RMSNorm divides by the mean over more dimensions than before: old gains
times sqrt(d / D) and ``layernorm_epsilon`` times d / D make up for it exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipelines.growth.width import role_of
from pipelines.megatron.spec import WIDTHS
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipelines.growth.width import Units
    from pipelines.megatron.spec import ExpertSpec, ModelSpec


class Gains(NamedTuple):
    """What becomes of a norm's gains: a factor of the old ones, and the new ones."""

    old_scale: float
    new: float


class Fill(Protocol):
    """Writes new weights into an enlarged matrix of zeros whose old block [rows, columns] is put in afterwards."""

    def __call__(self, wide: Tensor, rows: int, columns: int, read: Units) -> None: ...


def check_growth_factor(growth_factor: float, key: str = "growth_factor") -> None:
    """Refuse a factor that makes nothing wider.

    Raises:
        RetraceError: names the key.
    """
    if not 1 <= growth_factor < math.inf:
        raise RetraceError(f"method.{key} must be at least 1, and is {growth_factor}")


def wider(name: str, size: int, growth_factor: float) -> int:
    """A width times the factor, where that is a whole number.

    Raises:
        RetraceError: it is none.
    """
    product = Fraction(growth_factor).limit_denominator(1000) * size
    if product.denominator != 1:
        raise RetraceError(
            f"method: to grow {name} {size} by a factor of {growth_factor} gives no whole number: heads are added "
            "whole, and as many queries to every group"
        )
    return product.numerator


def wider_experts(experts: ExpertSpec, growth_factor: float) -> ExpertSpec:
    """Shape of experts that much wider, as many as before."""
    size = wider("moe_ffn_hidden_size", experts.moe_ffn_hidden_size, growth_factor)
    return experts.model_copy(update={"moe_ffn_hidden_size": size})


@dataclass(frozen=True)
class Padding:
    """Growth of a base to ``growth_factor`` times its width."""

    base: ModelSpec
    growth_factor: float

    def target(self, scale_epsilon: bool) -> ModelSpec:
        """Shape of the padded model.

        Args:
            scale_epsilon: by d / D, for new dimensions that are zero.
        """
        changes: dict[str, Any] = {name: self._wider(name, getattr(self.base, name)) for name in WIDTHS}
        if scale_epsilon:
            shrunk = self.base.hidden_size / changes["hidden_size"]
            changes["layernorm_epsilon"] = self.base.layernorm_epsilon * shrunk
        return self.base.model_copy(update=changes)

    @property
    def gain_scale(self) -> float:
        """sqrt(d / D)."""
        return math.sqrt(self.base.hidden_size / self._wider("hidden_size", self.base.hidden_size))

    def padded(self, name: str, tensor: Tensor, gains: Gains, fill: Fill | None = None) -> Tensor:
        """A parameter with its new units, in a buffer of its own.

        Args:
            fill: of what is wired on its own: gate and up are two matrices. None: new weights are zero.
        """
        import torch

        role = role_of(self.base, name)
        if role.columns is None:
            new = self._wider("hidden_size", len(tensor)) - len(tensor)
            return torch.cat([gains.old_scale * tensor, tensor.new_full((new,), gains.new)])
        padded = []
        for old in tensor.chunk(2) if name.endswith("linear_fc1.weight") else (tensor,):
            rows, columns = old.shape
            wide = old.new_zeros(self._wider("rows", rows) if role.rows else rows, self._wider("columns", columns))
            if fill is not None:
                fill(wide, rows, columns, role.columns)
            wide[:rows, :columns] = old
            padded.append(wide)
        return padded[0] if len(padded) == 1 else torch.cat(padded)

    def moments(self, tensors: Mapping[str, Tensor], power: int) -> Iterator[tuple[str, Tensor]]:
        """Gradients of the base, to the ``power``, where old gains were scaled: those of new weights are zero."""
        gains = Gains(self.gain_scale**-power, 0.0)
        for name in tensors:
            yield name, self.padded(name, tensors[name], gains)

    def _wider(self, name: str, size: int) -> int:
        return wider(name, size, self.growth_factor)


def facts_of_padding(base: ModelSpec, grown: ModelSpec) -> dict[str, Any]:
    """What run.json says of new units."""
    return {
        "new_hidden_size": grown.hidden_size - base.hidden_size,
        "new_heads": grown.num_attention_heads - base.num_attention_heads,
        "layernorm_epsilon": grown.layernorm_epsilon,
    }
