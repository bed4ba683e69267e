"""Which training sequences a grown model reads, and how many of them its base has read before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.growth.spec import DataPolicy


@dataclass(frozen=True)
class DataLedger:
    """Sequences are numbered in the seed's order, from 0 and through all epochs.

    Attributes:
        base_sequences: the base has read numbers 0 to base_sequences - 1.
        start_sequence: the first that the grown model reads.
        num_repeated_sequences: how many of the grown model's have been read before, by it or by its base.
    """

    base_sequences: int
    start_sequence: int
    num_repeated_sequences: int


def place_data(policy: DataPolicy, base_sequences: int, num_sequences: int, epoch: int) -> DataLedger:
    """Where in the data order a grown model starts.

    Args:
        base_sequences: read by the base, 0 for one of unknown history.
        num_sequences: the grown model's.
        epoch: sequences of the corpus.

    Raises:
        RetraceError: the corpus is too short for both (``disjoint``).
    """
    start = 0 if policy == "restart" else base_sequences
    # Numbers below the corpus's size are all different texts; only those neither has read are new.
    new = max(0, min(start + num_sequences, epoch) - max(start, base_sequences))
    repeated = num_sequences - new
    if policy == "disjoint" and base_sequences and repeated:
        raise RetraceError(
            f"the corpus has {epoch} training sequences, --base has read {base_sequences} and the grown model takes "
            f"{num_sequences}: {repeated} would come again; give more text or smaller budgets, or allow it with "
            "data_policy: continue"
        )
    return DataLedger(base_sequences, start, repeated)
