"""The certificate of a growth: what it did to the function, measured, beside what its method declares.

Base and grown model run in float64 on random tokens, twice: as the method maps float64 weights (``algebra``: is the
identity exact?) and as the grown checkpoint lies on disk, read back (``checkpoint``: what training starts from; its
weights are rounded to the dtype they are stored in). Either holds one layer in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from pipelines.growth.liveness import Liveness, Twins
from pipelines.growth.protocol import grow_masked
from pipelines.growth.slices import Shape
from pipelines.megatron.definition import gradients_of, logits_of, mean_loss
from pipelines.megatron.seeds import seed_of
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.growth.protocol import GrowthMethod, Preservation

ROWS = 2
LENGTH = 16
ROUNDINGS = 100
"""A checkpoint may deviate by this many roundings of its dtype where the algebra is exact."""


@dataclass(frozen=True)
class Deviation:
    """How far the grown model's logits are from the base's.

    Attributes:
        max_logit_deviation: largest absolute difference of a logit.
        relative_deviation: norm of the difference over the norm of the base's logits.
        base_loss, grown_loss: mean negative log-likelihood in nats of the random tokens.
    """

    max_logit_deviation: float
    relative_deviation: float
    base_loss: float
    grown_loss: float

    @property
    def loss_difference(self) -> float:
        """Grown model's loss less the base's."""
        return self.grown_loss - self.base_loss

    def facts(self) -> dict[str, float]:
        """For run.json."""
        return {**asdict(self), "loss_difference": self.loss_difference}


@dataclass(frozen=True)
class Certificate:
    """What was measured of one growth.

    Attributes:
        algebra: of the method on float64 weights.
        checkpoint: of the stored weights, read back.
        liveness: blocks that get no gradient at the first step.
        twins: duplicated units, and those that stay so.
    """

    num_tokens: int
    dtype: str
    algebra: Deviation
    checkpoint: Deviation
    liveness: Liveness
    twins: Twins

    def metrics(self) -> dict[str, float]:
        """For the tables: of the weights that training starts from."""
        measured = self.checkpoint
        return {"logit_deviation": measured.relative_deviation, "loss_difference": measured.loss_difference}

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "num_tokens": self.num_tokens,
            "dtype": self.dtype,
            "algebra": self.algebra.facts(),
            "checkpoint": self.checkpoint.facts(),
            "liveness": self.liveness.facts(),
            "twins": self.twins.facts(),
        }


def certify(
    method: GrowthMethod,
    base: Shape,
    tensors: Mapping[str, Tensor],
    grown: Shape,
    stored: Mapping[str, Tensor],
    seed: int,
) -> Certificate:
    """Measure a growth and hold it against the method's declaration.

    Args:
        base, grown: shapes before and after.
        tensors: global name -> tensor of the base; read one at a time.
        stored: global name -> tensor of the grown model, as read back, or as it goes into training.
        seed: that the method grew with.

    Raises:
        RetraceError: a method that declares the function preserved has changed it, or the base's weights are not
            finite.
    """
    tokens = random_tokens(len(tensors["embedding.word_embeddings.weight"]), base.model.seq_length, seed)
    with torch.no_grad():
        before = logits_of(tensors, base.model, base.experts, tokens)
        if not before.isfinite().all():
            raise RetraceError("the base's logits are not finite: its weights are damaged or have diverged")
        stream = grow_masked(method, base.model, InDouble(tensors), seed)
        algebra = deviation(before, logits_of(stream, grown.model, grown.experts, tokens), tokens)
        after = logits_of(stored, grown.model, grown.experts, tokens)
    alive, twins = Liveness(), Twins()
    widened = base.widths != grown.widths
    for gradient in gradients_of(stored, grown.model, grown.experts, tokens):
        alive.add(gradient, base, grown)
        # Growth in depth alone duplicates no unit of a layer.
        if widened:
            twins.add(gradient, grown)
    dtype = stored["embedding.word_embeddings.weight"].dtype
    certificate = Certificate(
        tokens.numel(),
        str(dtype).removeprefix("torch."),
        algebra,
        deviation(before, after, tokens),
        alive,
        twins.close(),
    )
    check(certificate, method.preserves(base.model), torch.finfo(dtype).eps)
    return certificate


def check(certificate: Certificate, declared: Preservation, eps: float) -> None:
    """Refuse a growth that is not what its method declares.

    Args:
        eps: of the dtype that the grown weights are stored in.

    Raises:
        RetraceError: names the deviation and the bound.
    """
    if declared.bound is None:
        return
    for name, bound in (("algebra", declared.bound), ("checkpoint", declared.bound + ROUNDINGS * eps)):
        measured = getattr(certificate, name).relative_deviation
        if not measured <= bound:
            raise RetraceError(
                f"the method declares that growth preserves the function ({declared.kind}), but the logits ({name}) "
                f"deviate by {measured:.2g} of their norm, more than {bound:.2g}: this is a defect of the method"
            )


def deviation(before: Tensor, after: Tensor, tokens: Tensor) -> Deviation:
    """Compare two models' logits [B, S, V] on tokens [B, S]."""
    difference = after - before
    return Deviation(
        float(difference.abs().max()),
        float(difference.norm() / before.norm()),
        float(mean_loss(before, tokens)),
        float(mean_loss(after, tokens)),
    )


def random_tokens(vocab_size: int, seq_length: int, seed: int) -> Tensor:
    """The tokens [B, S] of a certificate: at most 2 rows of 16."""
    generator = torch.Generator().manual_seed(seed_of(seed, "certificate"))
    return torch.randint(vocab_size, (ROWS, min(LENGTH, seq_length)), generator=generator)


class InDouble(Mapping[str, "Tensor"]):
    """The same tensors in float64, each converted when it is asked for; as fresh as these."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.fresh = getattr(tensors, "fresh", False)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].double()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
