"""A tokenizer for `tiktoken`, and back: the files that ``tokenizer export`` writes.

``tokenizer.tiktoken`` has a token in base64 and its rank on each line, as `tiktoken.load` reads it. tiktoken's ids are
these ranks, in the order of merging, scaffolds included; ``tiktoken.json`` says which ids a model sees instead, the
pattern and the special tokens. tiktoken merges any two neighbours that spell a token, whether or not they are a pair
that the training merged; on real text that is the same, which a test shows, but no law.
"""

from __future__ import annotations

import base64
import binascii
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.byte_tokenizer import ByteTokenizer
from pipelines.tokenizer.expansion import take_runs
from pipelines.tokenizer.folder import read_tokenizer
from pipelines.tokenizer.patterns import PATTERNS, pattern_of
from pipelines.tokenizer.protocol import byte_symbols, from_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tiktoken
    from numpy.typing import NDArray

RANKS = "tokenizer.tiktoken"
SETTINGS = "tiktoken.json"


class TiktokenTokenizer(ByteTokenizer):
    """A tokenizer that encodes with `tiktoken` and gives the ids that the exported one gives.

    Attributes:
        encoding: tiktoken's own object, whose ids are ranks of merging.
    """

    def __init__(
        self, encoding: tiktoken.Encoding, runs: list[list[int]], special_tokens: dict[str, int], vocab_size: int
    ) -> None:
        self.encoding = encoding
        self.vocab_size = vocab_size
        self._special_tokens = special_tokens
        self._flat = np.concatenate([np.array(run, dtype=np.int32) for run in runs])
        self._lengths = np.array([len(run) for run in runs])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def encode(self, text: str) -> list[int]:
        """Ids of a text; what looks like a special token is text."""
        ids: list[int] = self._expand(self.encoding.encode_ordinary(text)).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str], num_threads: int = 2) -> list[NDArray[np.int32]]:
        """Ids of every text, int32 [length] each."""
        return [
            self._expand(each) for each in self.encoding.encode_ordinary_batch(list(texts), num_threads=num_threads)
        ]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every id a model sees."""
        tokens = [b""] * self.vocab_size
        for token, index in self._special_tokens.items():
            tokens[index] = token.encode()
        for rank, (start, length) in enumerate(zip(self._starts, self._lengths, strict=True)):
            if length == 1:
                tokens[self._flat[start]] = self.encoding.decode_single_token_bytes(rank)
        return tokens

    def _expand(self, ranks: list[int]) -> NDArray[np.int32]:
        return take_runs(self._flat, self._starts, self._lengths, np.array(ranks, dtype=np.int64))[0]


def export_tiktoken(folder: Path, out: Path) -> None:
    """Write a tokenizer folder's files for tiktoken.

    Raises:
        RetraceError: the tokenizer is no byte-level BPE with one of our patterns.
    """
    tokenizer, table = read_tokenizer(folder)
    description = json.loads(tokenizer.to_str())
    pattern = pattern_of(tokenizer)
    model = description["model"]
    if model["type"] != "BPE" or pattern is None or description["normalizer"] is not None:
        raise RetraceError(
            f"{folder}: tiktoken takes byte-level BPE with one of the patterns {', '.join(PATTERNS)} and no "
            "normalizer: train such a tokenizer"
        )

    def run(index: int) -> list[int]:
        return [index] if table is None else table.expand(np.array([index])).tolist()

    ids: dict[str, int] = model["vocab"]
    # A token made twice keeps the rank of its first merge, as in the encoder.
    tokens = list(dict.fromkeys([*byte_symbols(), *(left + right for left, right in model["merges"])]))
    lines = [b"%s %d\n" % (base64.b64encode(from_symbols(token)), rank) for rank, token in enumerate(tokens)]
    special = tokenizer.get_added_tokens_decoder().items()
    settings = {
        "pattern": PATTERNS[pattern],
        "special_tokens": {token.content: run(index)[0] for index, token in special},
        "vocab_size": tokenizer.get_vocab_size() - (0 if table is None else table.num_scaffolds),
        "ids": [run(ids[token]) for token in tokens],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / RANKS).write_bytes(b"".join(lines))
    (out / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")


def load_tiktoken(folder: Path) -> TiktokenTokenizer:
    """Open what ``export_tiktoken`` wrote.

    Raises:
        RetraceError: a file is missing or damaged.
    """
    import tiktoken

    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        runs = settings["ids"]
        file = folder / RANKS
        ranks = {}
        for number, line in enumerate(file.read_bytes().splitlines()):
            token, _, rank = line.partition(b" ")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
            if int(rank) != number:
                raise ValueError(f"line {number + 1} has rank {int(rank)}")
        if len(ranks) != len(runs):
            raise ValueError(f"{len(ranks)} tokens, and {SETTINGS} names {len(runs)}")
        encoding = tiktoken.Encoding(
            name=folder.name, pat_str=settings["pattern"], mergeable_ranks=ranks, special_tokens={}
        )
        return TiktokenTokenizer(encoding, runs, settings["special_tokens"], settings["vocab_size"])
    except OSError as missing:
        raise RetraceError(f"{file}: {missing.strerror}: make it with `tokenizer export`") from None
    except (ValueError, KeyError, TypeError, binascii.Error) as broken:
        raise RetraceError(f"{file} is damaged ({broken}): export the tokenizer again") from None
