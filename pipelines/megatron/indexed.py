"""Token files in Megatron's indexed-dataset format: ids in ``PREFIX.bin``, where each sequence lies in ``PREFIX.idx``.

Layout of ``.idx`` (little endian), as in megatron-core 0.16.1 ``core/datasets/indexed_dataset.py``: the magic
``MMIDIDX\\0\\0``, u64 version 1, u8 type code, u64 number of sequences, u64 number of document boundaries, then
int32 sequence lengths, int64 byte offsets, int64 document boundaries (0, then one past each document's last sequence).

Written with numpy alone: importing ``megatron.core.datasets`` costs seconds, more than tokenizing a small corpus.
A test holds both directions equal to ``IndexedDatasetBuilder`` and ``IndexedDataset`` byte for byte.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
TYPE_CODES: dict[int, type[np.integer[Any]]] = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    8: np.uint16,
}


@dataclass(frozen=True)
class TokenFile:
    """A token file opened for reading.

    Attributes:
        tokens: [num_tokens] every id in file order, a read-only memory map.
        document_lengths: [num_documents] int64 tokens a document.
    """

    tokens: NDArray[Any]
    document_lengths: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.document_lengths)

    @property
    def num_tokens(self) -> int:
        """Number of tokens, end-of-document marks included."""
        return len(self.tokens)

    def document(self, index: int) -> NDArray[Any]:
        """Ids of one document, [length]."""
        end = int(self.document_lengths[: index + 1].sum())
        return self.tokens[end - int(self.document_lengths[index]) : end]


def token_dtype(vocab_size: int) -> type[np.integer[Any]]:
    """The narrowest type Megatron stores ids of this vocabulary in (``DType.optimal_dtype``)."""
    return np.uint16 if vocab_size < 65500 else np.int32


def bin_path(prefix: Path) -> Path:
    """File of the ids."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """File of the index."""
    return prefix.with_name(prefix.name + ".idx")


def write_documents(prefix: Path, documents: Iterable[NDArray[Any]], vocab_size: int) -> tuple[int, int]:
    """Write documents, each one sequence of ids, to ``PREFIX.bin`` and ``PREFIX.idx``.

    Args:
        documents: one integer array [length] a document, each id below ``vocab_size``; streamed, one at a time.

    Returns:
        (documents, tokens) written.

    Raises:
        RetraceError: an id outside the vocabulary, named with its document.
    """
    prefix = Path(prefix)
    dtype = np.dtype(token_dtype(vocab_size))
    lengths = array("i")
    with bin_path(prefix).open("wb") as file:
        for ids in documents:
            if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
                raise RetraceError(
                    f"{bin_path(prefix)}: document {len(lengths)} has ids {ids.min()}..{ids.max()} "
                    f"outside the vocabulary of {vocab_size}: tokenize with the tokenizer the model is made for"
                )
            file.write(np.ascontiguousarray(ids, dtype=dtype).tobytes())
            lengths.append(len(ids))
    sizes = np.frombuffer(lengths, dtype=np.intc).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]) * dtype.itemsize if lengths else sizes
    code = next(code for code, kind in TYPE_CODES.items() if kind == dtype.type)
    with idx_path(prefix).open("wb") as file:
        file.write(HEADER.pack(MAGIC, 1, code, len(lengths), len(lengths) + 1))
        file.write(sizes.astype("<i4").tobytes())
        file.write(offsets.astype("<i8").tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())
    return len(lengths), int(sizes.sum())


def read_tokens(prefix: Path) -> TokenFile:
    """Open ``PREFIX.bin`` and ``PREFIX.idx``; the ids are mapped, not read.

    Raises:
        RetraceError: a file is missing, damaged, or the two do not belong together.
    """
    prefix = Path(prefix)
    for path in (bin_path(prefix), idx_path(prefix)):
        if not path.is_file():
            raise RetraceError(f"{path} is missing: make it with `python -m pipelines tokenizer tokenize`")
    index = idx_path(prefix).read_bytes()
    try:
        magic, version, code, num_sequences, num_boundaries = HEADER.unpack_from(index)
    except struct.error:
        magic, version, code, num_sequences, num_boundaries = b"", 0, 0, 0, 0
    expected = HEADER.size + 12 * num_sequences + 8 * num_boundaries
    if magic != MAGIC or version != 1 or code not in TYPE_CODES or len(index) < expected:
        raise RetraceError(f"{idx_path(prefix)} is not a whole Megatron index: tokenize again")
    sizes = np.frombuffer(index, "<i4", num_sequences, HEADER.size).astype(np.int64)
    boundaries = np.frombuffer(index, "<i8", num_boundaries, HEADER.size + 12 * num_sequences)
    dtype = np.dtype(TYPE_CODES[code])
    num_bytes = bin_path(prefix).stat().st_size
    if num_bytes != int(sizes.sum()) * dtype.itemsize:
        raise RetraceError(
            f"{bin_path(prefix)} has {num_bytes} bytes but its index names {int(sizes.sum()) * dtype.itemsize}: "
            "the file is cut short or belongs to another index; tokenize again"
        )
    # An empty file cannot be mapped.
    tokens = np.memmap(bin_path(prefix), dtype=dtype, mode="r") if num_bytes else np.zeros(0, dtype)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return TokenFile(tokens, np.diff(ends[boundaries]))
