"""Taking scaffolds apart: ids N.. become runs of ids below N, by one constant table.

This file is also copied into tokenizer folders, so it imports nothing of the package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer


class ExpansionTable:
    """Expansion of every token: itself below ``num_visible``, the given run of visible ids from there on.

    Args:
        expansions: for scaffold ``num_visible + k``, its visible ids.
        num_added: tokens added to the encoder after training; their ids follow the scaffolds there, and follow the
            visible tokens here.

    Attributes:
        flat: the runs of all tokens one after another, int32.
        starts, lengths: [tokens] int64 where each token's run lies in ``flat``.
    """

    def __init__(self, expansions: Sequence[NDArray[np.int32]], num_visible: int, num_added: int = 0) -> None:
        self.expansions = expansions
        self.num_visible = num_visible
        self.num_added = num_added
        visible = np.arange(num_visible, dtype=np.int32)
        added = np.arange(num_visible, num_visible + num_added, dtype=np.int32)
        self.flat = np.concatenate([visible, *expansions, added])
        lengths = [1] * num_visible + [len(each) for each in expansions] + [1] * num_added
        self.lengths = np.array(lengths, dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths

    @property
    def num_scaffolds(self) -> int:
        """Tokens of the encoder that no model sees."""
        return len(self.expansions)

    @property
    def scaffold_ids(self) -> range:
        """Their ids in the encoder."""
        return range(self.num_visible, self.num_visible + self.num_scaffolds)

    def expand(self, ids: NDArray[Any]) -> NDArray[np.int32]:
        """Ids [T] of the encoder -> ids [T' >= T] a model sees."""
        return self.expand_with_source(ids)[0]

    def expand_with_source(self, ids: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The expanded ids [T'], and for each the place [T'] in ``ids`` it comes from."""
        if not len(ids) or ids.max() < self.num_visible:
            return ids.astype(np.int32, copy=False), np.arange(len(ids))
        return take_runs(self.flat, self.starts, self.lengths, ids)


def take_runs(
    flat: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64], ids: NDArray[Any]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The runs of ids [T] end to end [T'], and for each of it the place [T'] in ``ids`` it comes from."""
    own = lengths[ids]
    source = np.repeat(np.arange(len(ids)), own)
    # Place within its own run, plus where the run starts.
    within = np.arange(len(source)) - (np.cumsum(own) - own)[source]
    return flat[starts[ids][source] + within], source


def read_expansions(file: Path, tokenizer: Tokenizer, hidden: str = "scaffold_tokens") -> tuple[ExpansionTable, Any]:
    """The table of a file and its whole body, held against the encoder's vocabulary, so that no byte can change.

    Args:
        hidden: key of the tokens that no model sees; ``expansions`` has the ids of each of them.

    Raises:
        ValueError: the file is damaged or belongs to another encoder; the message names it.
    """
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        return _table(tokenizer, body["vocab_size"], body[hidden], body["expansions"]), body
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise ValueError(
            f"{file} is damaged or belongs to another tokenizer.json ({broken}): train the tokenizer again"
        ) from None


def _table(tokenizer: Tokenizer, num_visible: int, hidden: list[str], parts: list[list[int]]) -> ExpansionTable:
    num_tokens = tokenizer.get_vocab_size(with_added_tokens=False)
    if num_tokens != num_visible + len(hidden) or len(parts) != len(hidden):
        raise ValueError(f"{num_visible} + {len(hidden)} tokens do not make {num_tokens}")
    for place, (token, ids) in enumerate(zip(hidden, parts, strict=True)):
        if tokenizer.token_to_id(token) != num_visible + place:
            raise ValueError(f"{token!r} is not token {num_visible + place}")
        if not ids or not all(isinstance(i, int) and 0 <= i < num_visible for i in ids):
            raise ValueError(f"expansion of {token!r} leaves the vocabulary")
        if "".join(str(tokenizer.id_to_token(i)) for i in ids) != token:
            raise ValueError(f"expansion of {token!r} spells something else")
    num_added = tokenizer.get_vocab_size() - num_tokens
    return ExpansionTable([np.array(ids, dtype=np.int32) for ids in parts], num_visible, num_added)
