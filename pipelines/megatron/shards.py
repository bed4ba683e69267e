"""Safetensors files read and written a tensor at a time, with no more than that in memory.

The library keeps a whole file mapped to read it, and takes all of a file's tensors to write it; growing a model larger
than memory needs neither: each tensor is a mapping of its own, gone with the tensor. Files are the library's own format
(https://github.com/huggingface/safetensors): eight bytes of header length, a JSON header, then the tensors' bytes
without gaps. Arrays of numpy need no torch.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from torch import Tensor

    Array = np.ndarray[Any, np.dtype[Any]]

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
BUFFER = 64 * 2**20
"""A file up to this size is written at once, under a header that fits; of a longer one the header comes last."""

HEADER_ROOM = 2**20
"""Kept free at the beginning of a long file for the header; a shard that needs more is ended."""

MAX_HEADER = 100 * 10**6
"""The library's own limit."""


class ShardFile:
    """A safetensors file, its header read and checked against the file's length; tensors are read when asked for.

    Raises:
        RetraceError: damaged, or not a safetensors file; ends in ``remedy``.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path, self._remedy = path, remedy
        self._entries = self._read_header()

    @property
    def names(self) -> list[str]:
        """Names of its tensors, as they lie in the file."""
        return list(self._entries)

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor."""
        shape: list[int] = self._entries[name]["shape"]
        return shape

    def dtype(self, name: str) -> str:
        """Dtype of a tensor, in the format's words: F32, BF16, ..."""
        dtype: str = self._entries[name]["dtype"]
        return dtype

    def array(self, name: str) -> Array:
        """A tensor as a numpy array that shares memory with no other (there is none for BF16)."""
        dtype = TORCH[self.dtype(name)]
        if dtype == "bfloat16":
            raise RetraceError(f"{self.path}: {name} is bfloat16, which numpy does not have: read it with torch")
        return self._bytes(name).view(dtype).reshape(self.shape(name))

    def tensor(self, name: str) -> Tensor:
        """A tensor that shares memory with no other."""
        import torch

        dtype, shape = getattr(torch, TORCH[self.dtype(name)]), self.shape(name)
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        return torch.from_numpy(self._bytes(name)).view(dtype).view(shape)

    def _bytes(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A private mapping of the file: it costs no copy, and what is written to it stays in memory."""
        begin, end = (self._data + offset for offset in self._entries[name]["data_offsets"])
        if begin == end:
            return np.empty(0, dtype=np.uint8)
        # A mapping begins on a page.
        page = begin - begin % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < end:
                raise self._damaged("it ends too early")
            mapped = mmap.mmap(file.fileno(), end - page, access=mmap.ACCESS_COPY, offset=page)
        mapped.madvise(mmap.MADV_WILLNEED)
        whole = np.frombuffer(mapped, dtype=np.uint8, count=end - begin, offset=begin - page)
        aligned = begin % SIZES[self.dtype(name)] == 0
        return whole if aligned else whole.copy()

    def _read_header(self) -> dict[str, dict[str, Any]]:
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length <= min(size - 8, MAX_HEADER):
                    raise self._damaged("its header is not whole")
                header = json.loads(file.read(length))
        except OSError as failed:
            raise RetraceError(f"{self.path} cannot be read: {failed.strerror}") from None
        except ValueError:
            raise self._damaged("its header is not JSON") from None
        self._data = 8 + length
        if not isinstance(header, dict):
            raise self._damaged("its header is not an object")
        header.pop("__metadata__", None)
        try:
            entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
            at = 0
            for name, entry in entries:
                begin, end = entry["data_offsets"]
                if entry["dtype"] not in SIZES:
                    raise RetraceError(f"{self.path}: {name} has dtype {entry['dtype']}, which is not supported")
                if begin != at or end - begin != SIZES[entry["dtype"]] * math.prod(entry["shape"]):
                    raise self._damaged(f"the place of {name} is wrong")
                at = end
        except (KeyError, TypeError, ValueError):
            raise self._damaged("its header is not that of safetensors") from None
        if self._data + at != size:
            raise self._damaged(f"it should have {self._data + at} bytes and has {size}")
        return dict(entries)

    def _damaged(self, why: str) -> RetraceError:
        return RetraceError(f"{self.path} is damaged ({why}): {self._remedy}")


class ShardWriter:
    """Files ``shard-<number>.partial`` in a folder, filled one after another.

    A file longer than ``BUFFER`` goes to disk tensor by tensor.
    """

    def __init__(self, out: Path, max_shard_bytes: int) -> None:
        self.out, self.max_shard_bytes = out, max_shard_bytes
        self.shards: list[list[str]] = []
        self.total_size = 0
        self._entries: dict[str, dict[str, Any]] = {}
        self._waiting: list[memoryview] = []
        self._file: IO[bytes] | None = None
        self._size = self._header_size = 0

    def write(self, tensors: Iterable[tuple[str, Tensor | Array]]) -> ShardWriter:
        """Write all tensors, each in its own dtype, and end the last file."""
        try:
            for name, tensor in tensors:
                self._add(name, *_described(tensor))
            self._end()
        finally:
            if self._file is not None:
                self._file.close()
        return self

    def name_files(self, name_of: Callable[[int, int], str]) -> dict[str, str]:
        """Give the files their names, by (number from 1, of how many). Returns tensor -> file."""
        weight_map = {}
        for number, names in enumerate(self.shards):
            file = name_of(number + 1, len(self.shards))
            (self.out / f"shard-{number}.partial").rename(self.out / file)
            weight_map.update(dict.fromkeys(names, file))
        return weight_map

    def _add(self, name: str, dtype: str, shape: list[int], data: memoryview) -> None:
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [self._size, self._size + data.nbytes]}
        header_size = len(json.dumps({name: entry})) + 64
        full = self._header_size + header_size > HEADER_ROOM or self._size + data.nbytes > self.max_shard_bytes
        if self._entries and full:
            self._end()
            entry["data_offsets"] = [0, data.nbytes]
        self._entries[name] = entry
        self._size += data.nbytes
        self._header_size += header_size
        self.total_size += data.nbytes
        if self._file is None and self._size <= BUFFER:
            # What the caller goes on with may share this memory.
            self._waiting.append(memoryview(bytes(data)))
            return
        file = self._open()
        file.write(data)

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = (self.out / f"shard-{len(self.shards)}.partial").open("wb")
            self._file.seek(8 + HEADER_ROOM)
            for data in self._waiting:
                self._file.write(data)
            self._waiting.clear()
        return self._file

    def _end(self) -> None:
        header = json.dumps({"__metadata__": {"format": "pt"}, **self._entries}, separators=(",", ":")).encode()
        if self._file is None:
            self._file = (self.out / f"shard-{len(self.shards)}.partial").open("wb")
            _write_header(self._file, header, -(-len(header) // 8) * 8)
            for data in self._waiting:
                self._file.write(data)
        else:
            self._file.seek(0)
            _write_header(self._file, header, HEADER_ROOM)
        self._file.close()
        self._file = None
        self.shards.append(list(self._entries))
        self._entries, self._waiting, self._size, self._header_size = {}, [], 0, 0


def _write_header(file: IO[bytes], header: bytes, length: int) -> None:
    file.write(length.to_bytes(8, "little") + header.ljust(length))


def _described(tensor: Tensor | Array) -> tuple[str, list[int], memoryview]:
    if isinstance(tensor, np.ndarray):
        array, dtype = np.ascontiguousarray(tensor), str(tensor.dtype)
    else:
        import torch

        whole = tensor.detach().cpu().contiguous()
        array, dtype = whole.reshape(-1).view(torch.uint8).numpy(), str(tensor.dtype).removeprefix("torch.")
    names = {name: short for short, name in TORCH.items()}
    return names[dtype], list(tensor.shape), array.reshape(-1).view(np.uint8).data
