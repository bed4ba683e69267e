"""Training batches and validation windows from a token artifact: the same sequences for a step on any layout.

Training sees the concatenated stream cut into windows of seq_length + 1 tokens that overlap by one. Sequence n of a
run (counted from 0 over all steps) is window ``permutation(seed, epoch)[n mod W]`` with ``epoch = n div W``.
Step k takes sequences ``start + (k-1) B .. start + k B``, so a run that starts where another ended sees new text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.megatron.indexed import TokenFile, read_tokens
from pipelines.megatron.kernels import IGNORED
from pipelines.runs.errors import RetraceError


@dataclass(frozen=True)
class TokenArtifact:
    """A folder made by ``tokenizer tokenize``: {train,validation}.{bin,idx} and tokens.json."""

    path: Path
    vocab_size: int
    eod_id: int
    tokenizer_key: str | None
    splits: dict[str, dict[str, Any]]

    def split(self, name: str) -> TokenFile:
        """Open one split."""
        return read_tokens(self.path / name)


def open_tokens(path: Path) -> TokenArtifact:
    """Read tokens.json.

    Raises:
        RetraceError: the folder is no token artifact.
    """
    described = path / "tokens.json"
    if not described.is_file():
        raise RetraceError(f"{described} is missing: --tokens takes a folder made by `tokenizer tokenize`")
    try:
        facts = json.loads(described.read_text(encoding="utf-8"))
        return TokenArtifact(path, facts["vocab_size"], facts["eod_id"], facts.get("tokenizer_key"), facts["splits"])
    except (ValueError, KeyError) as broken:
        raise RetraceError(f"{described} lacks or garbles {broken}: tokenize the corpus again") from None


class TrainingWindows:
    """Shuffled training sequences.

    Args:
        tokens: [N] the whole stream.
        start: sequences that came before this run's first (a base model's, which a grown one skips).

    Raises:
        RetraceError: the stream is shorter than one sequence.
    """

    def __init__(self, tokens: NDArray[Any], seq_length: int, seed: int, start: int = 0) -> None:
        self.tokens, self.seq_length, self.seed, self.start = tokens, seq_length, seed, start
        self.num_windows = (len(tokens) - 1) // seq_length
        if self.num_windows < 1:
            raise RetraceError(
                f"the training split has {len(tokens)} tokens, fewer than one sequence of "
                f"model.seq_length {seq_length} + 1: give a larger corpus or a shorter sequence"
            )
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def epochs(self, sequences: int) -> float:
        """Passes over the data that this many sequences make, those before ``start`` not counted."""
        return sequences / self.num_windows

    def window(self, number: int) -> int:
        """Which window is sequence ``number`` of the run."""
        epoch, position = divmod(self.start + number, self.num_windows)
        if self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
            self._order = epoch, generator.permutation(self.num_windows)
        return int(self._order[1][position])

    def sequences(self, first: int, count: int) -> Tensor:
        """[count, seq_length + 1] int64, sequences ``first`` on."""
        s = self.seq_length
        starts = [self.window(first + i) * s for i in range(count)]
        return torch.from_numpy(np.stack([self.tokens[at : at + s + 1] for at in starts]).astype(np.int64))


def micro_batches(
    windows: TrainingWindows, step: int, global_batch: int, micro_batch: int, rank: int, ranks: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This data-parallel rank's (inputs, labels), each [micro_batch, seq_length], of a step counted from 1.

    The global batch is cut into the same micro-batches whatever the number of ranks, and dealt out in turn, so a
    loss computed per micro-batch (megatron's load balancing) does not depend on the layout either.
    """
    first = (step - 1) * global_batch
    for number in range(rank, global_batch // micro_batch, ranks):
        sequences = windows.sequences(first + number * micro_batch, micro_batch)
        yield sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()


@dataclass(frozen=True)
class Evaluated:
    """The validation text: every token is predicted once, the first from an end-of-document mark.

    Attributes:
        inputs, labels: [windows, seq_length]; the last window is padded with ``IGNORED`` labels.
        num_tokens: predicted tokens.
        num_bytes: UTF-8 bytes these tokens stand for.
        exact: whether num_bytes was counted (else scaled from the split's bytes a token).
    """

    inputs: Tensor
    labels: Tensor
    num_tokens: int
    num_bytes: float
    exact: bool

    @property
    def counts(self) -> NDArray[Any]:
        """[seq_length] predicted tokens at each position."""
        counts: NDArray[Any] = (self.labels != IGNORED).sum(0).numpy()
        return counts


def evaluation_windows(artifact: TokenArtifact, seq_length: int, eval_tokens: int | None = None) -> Evaluated:
    """The validation split, or its first whole documents of at most ``eval_tokens`` tokens (at least one).

    Bytes are those of the chosen documents: the split's total, or tokens.json's ``document_bytes`` of the split.
    """
    split, facts = artifact.split("validation"), artifact.splits["validation"]
    count, num_bytes, exact = split.num_tokens, float(facts["num_bytes"]), True
    if count == 0 or num_bytes == 0:
        raise RetraceError(f"{artifact.path}: the validation split is empty; tokenize a corpus that has one")
    if eval_tokens is not None and eval_tokens < count:
        ends = np.cumsum(split.document_lengths)
        documents = max(1, int(np.searchsorted(ends, eval_tokens, side="right")))
        each = facts.get("document_bytes")
        exact = each is not None
        num_bytes = float(sum(each[:documents])) if each else num_bytes * int(ends[documents - 1]) / count
        count = int(ends[documents - 1])
    windows = -(-count // seq_length)
    labels = np.full(windows * seq_length, IGNORED, dtype=np.int64)
    labels[:count] = split.tokens[:count]
    inputs = np.full(windows * seq_length, artifact.eod_id, dtype=np.int64)
    inputs[1:count] = split.tokens[: count - 1]
    shape = (windows, seq_length)
    return Evaluated(
        torch.from_numpy(inputs).view(shape), torch.from_numpy(labels).view(shape), count, num_bytes, exact
    )
