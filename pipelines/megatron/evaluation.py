"""Validation loss: nats a token over the whole split, and bits a byte, the same on any layout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from pipelines.megatron.data import IGNORED

if TYPE_CHECKING:
    from megatron.core.distributed import DistributedDataParallel

    from pipelines.megatron.data import Evaluated


@torch.no_grad()  # type: ignore[untyped-decorator]
def evaluate(model: DistributedDataParallel, text: Evaluated, micro_batch: int, precision: str) -> dict[str, float]:
    """Loss over every predicted token of the validation text.

    Windows are dealt out to the data-parallel ranks; all run as many forward passes (expert ranks wait for each
    other), the surplus ones with no token that counts.

    Returns:
        val_loss (nats a token) and val_bits_per_byte, on every rank.
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
        forward_step_func=lambda batches, part: (_forward(part, next(batches), precision), _keep),
        data_iterator=iter([batch(number) for number in range(share)]),
        model=model,
        num_microbatches=share,
        seq_length=text.inputs.shape[1],
        micro_batch_size=micro_batch,
        forward_only=True,
    )
    model.train()
    total = torch.stack(sums).double().sum() if sums else torch.zeros((), dtype=torch.double, device=device)
    torch.distributed.all_reduce(total)
    nats = total.item()
    return {
        "val_loss": nats / text.num_tokens,
        "val_bits_per_byte": nats / math.log(2) / text.num_bytes,
    }


def _forward(model: torch.nn.Module, batch: tuple[Tensor, Tensor], precision: str) -> Tensor:
    inputs, labels = batch
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        output: Tensor = model(inputs, labels=labels)
    return output


def _keep(output: Tensor) -> tuple[Tensor, Tensor]:
    return output, output.detach().clone()
