"""Taking scaffolds apart: ids N.. become runs of ids below N, by one constant table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class ExpansionTable:
    """Expansion of every token: itself below ``num_visible``, the given run of visible ids from there on.

    Args:
        expansions: for scaffold ``num_visible + k``, its visible ids.
    """

    def __init__(self, expansions: Sequence[NDArray[np.int32]], num_visible: int) -> None:
        self.num_visible = num_visible
        visible = np.arange(num_visible, dtype=np.int32)
        self.flat = np.concatenate([visible, *expansions])
        self.lengths = np.concatenate([np.ones(num_visible, np.int64), [len(each) for each in expansions]]).astype(int)
        self.starts = np.cumsum(self.lengths) - self.lengths

    def expand(self, ids: NDArray[Any]) -> NDArray[np.int32]:
        """Ids [T] over all tokens -> ids [T' >= T] over visible tokens."""
        return self.expand_with_source(ids)[0]

    def expand_with_source(self, ids: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The expanded ids [T'], and for each the place [T'] in ``ids`` it comes from."""
        if not len(ids) or ids.max() < self.num_visible:
            return ids.astype(np.int32, copy=False), np.arange(len(ids))
        lengths = self.lengths[ids]
        source = np.repeat(np.arange(len(ids)), lengths)
        # Place within its own run, plus where the run starts in the table.
        within = np.arange(len(source)) - (np.cumsum(lengths) - lengths)[source]
        return self.flat[self.starts[ids][source] + within], source
