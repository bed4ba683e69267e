"""What the ranks of a job tell each other between steps: one small tensor on torch.distributed's default group.

Every function is collective. A job of one process has nobody to ask, and needs no torch for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.runs.job import Job


def highest(job: Job, number: int) -> int:
    """The largest of all ranks' numbers."""
    if job.world_size == 1:
        return number
    import torch.distributed as dist

    largest = _tensor([number])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def lowest_failing(job: Job, failed: bool) -> int | None:
    """The lowest rank that failed, if any did."""
    found = highest(job, job.world_size - job.rank if failed else 0)
    return job.world_size - found if found else None


def gather(job: Job, numbers: list[int]) -> list[list[int]]:
    """The numbers of every rank (as many from each), in the ranks' order."""
    if job.world_size == 1:
        return [numbers]
    import torch.distributed as dist

    mine = _tensor(numbers)
    everyone = [mine.clone() for _ in range(job.world_size)]
    dist.all_gather(everyone, mine)
    return [each.tolist() for each in everyone]


def _tensor(numbers: list[int]) -> Tensor:
    """On the device that the group's backend can carry."""
    import torch
    import torch.distributed as dist

    return torch.tensor(numbers, dtype=torch.int64, device="cuda" if "nccl" in dist.get_backend() else "cpu")
