"""Validation loss: nats a token over a text, by position and as a whole, and bits a byte; the same on any layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from pipelines.megatron.data import IGNORED

if TYPE_CHECKING:
    from megatron.core.distributed import DistributedDataParallel

    from pipelines.megatron.data import Evaluated


@dataclass(frozen=True, eq=False)
class Validation:
    """What an evaluation found.

    Attributes:
        nats, squares: [seq_length] sums, over the tokens predicted at each position, of the negative log-likelihood
            in nats and of its square.
        val_loss: nats a token: the exact sum of ``nats`` over the number of tokens.
        val_bits_per_byte: the same sum in bits, over the bytes of the text.
    """

    nats: NDArray[Any]
    squares: NDArray[Any]
    val_loss: float
    val_bits_per_byte: float

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """The two numbers of a log line."""
        return {f"{prefix}val_loss": self.val_loss, f"{prefix}val_bits_per_byte": self.val_bits_per_byte}


@torch.no_grad()  # type: ignore[untyped-decorator]
def evaluate(model: DistributedDataParallel, text: Evaluated, micro_batch: int, precision: str) -> Validation:
    """Loss over every predicted token of the validation text.

    Windows are dealt out to the data-parallel ranks; all run as many forward passes (expert ranks wait for each
    other), the surplus ones with no token that counts.

    Returns:
        the same on every rank.
    """
    ranks, rank = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()
    windows = len(text.inputs)
    share = -(-windows // (ranks * micro_batch))
    # A pipeline sends micro-batches of one shape, so there the last is filled up.
    staged = parallel_state.get_pipeline_model_parallel_world_size() > 1
    device = backend.device()

    def batch(number: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(micro_batch) + (number * ranks + rank) * micro_batch
        if not staged:
            rows = rows[: max(1, windows - int(rows[0]))]
        inside = rows < windows
        rows = rows.clamp(max=windows - 1)
        labels = torch.where(inside[:, None], text.labels[rows], torch.tensor(IGNORED))
        return text.inputs[rows].to(device), labels.to(device)

    model.eval()
    sums = get_forward_backward_func()(
        forward_step_func=lambda batches, part: (_forward(part, next(batches), precision), _by_position),
        data_iterator=iter([batch(number) for number in range(share)]),
        model=model,
        num_microbatches=share,
        seq_length=text.inputs.shape[1],
        micro_batch_size=micro_batch,
        forward_only=True,
    )
    model.train()
    length = text.inputs.shape[1]
    total = torch.stack(sums).sum(0) if sums else torch.zeros(2, length, dtype=torch.double, device=device)
    torch.distributed.all_reduce(total)
    nats, squares = total.cpu().numpy()
    whole = math.fsum(nats.tolist())
    return Validation(nats, squares, whole / text.num_tokens, whole / math.log(2) / text.num_bytes)


def _forward(model: torch.nn.Module, batch: tuple[Tensor, Tensor], precision: str) -> Tensor:
    inputs, labels = batch
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        output: Tensor = model(inputs, labels=labels, each_token=True)
    return output


def _by_position(losses: Tensor) -> tuple[Tensor, Tensor]:
    """[b, s] losses of tokens -> [2, s] sums over the batch of the losses and of their squares."""
    exact = losses.double()
    return losses, torch.stack([exact.sum(0), exact.square().sum(0)])
