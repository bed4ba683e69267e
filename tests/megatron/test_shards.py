"""Our reader and writer of safetensors against the library's, and files that are not what they say."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.megatron import shards
from pipelines.megatron.shards import ShardFile, ShardWriter
from pipelines.runs.errors import RetraceError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {str(dtype): torch.randn(3, 5, generator=generator).to(dtype) for dtype in DTYPES}
    return {**made, "vector": torch.arange(7.0), "scalar": torch.tensor(3.0), "transposed": torch.randn(4, 6).T}


def write(folder, pairs, max_shard_bytes=10**9):
    writer = ShardWriter(folder, max_shard_bytes).write(pairs)
    return writer.name_files(lambda number, count: f"{number}-of-{count}.safetensors")


@pytest.mark.parametrize("buffer", [2**20, 100, 0])
def test_the_library_reads_what_we_write_buffered_or_tensor_by_tensor(tmp_path, monkeypatch, buffer):
    monkeypatch.setattr(shards, "BUFFER", buffer)
    written = tensors()
    assert write(tmp_path, written.items()) == dict.fromkeys(written, "1-of-1.safetensors")
    read = load_file(tmp_path / "1-of-1.safetensors")
    assert read.keys() == written.keys()
    for name, tensor in written.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    with safe_open(tmp_path / "1-of-1.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_library_writes(tmp_path):
    written = {name: tensor.contiguous() for name, tensor in tensors().items()}
    save_file(written, tmp_path / "x.safetensors")
    file = ShardFile(tmp_path / "x.safetensors", "again")
    assert set(file.names) == set(written)
    for name, tensor in written.items():
        assert file.shape(name) == list(tensor.shape)
        assert torch.equal(file.tensor(name), tensor)
        if tensor.dtype != torch.bfloat16:
            assert np.array_equal(file.array(name), tensor.numpy())
    with pytest.raises(RetraceError, match="bfloat16, which numpy does not have"):
        file.array("torch.bfloat16")
    # Each in memory of its own: a change does not reach the next reader.
    file.tensor("vector").zero_()
    assert torch.equal(file.tensor("vector"), written["vector"])


def test_what_is_written_to_a_tensor_reaches_neither_the_file_nor_the_next_reader(tmp_path):
    written = {"a": torch.arange(3000.0), "b": torch.ones(5)}
    save_file(written, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    file = ShardFile(tmp_path / "x.safetensors", "again")
    first, second = file.tensor("a"), file.tensor("a")
    first.zero_()
    file.array("b")[:] = 7
    assert torch.equal(second, written["a"])
    assert torch.equal(file.tensor("b"), written["b"])
    assert (tmp_path / "x.safetensors").read_bytes() == before
    # A tensor outlives its file's name.
    (tmp_path / "x.safetensors").unlink()
    assert torch.equal(second, written["a"])


def test_a_tensor_that_begins_between_two_numbers_is_read_too(tmp_path):
    entries = {
        "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        "none": {"dtype": "F32", "shape": [0], "data_offsets": [11, 11]},
    }
    (tmp_path / "x.safetensors").write_bytes(header(entries, b"abc" + np.array([1.5, -2.0], np.float32).tobytes()))
    file = ShardFile(tmp_path / "x.safetensors", "again")
    assert file.tensor("x").tolist() == file.array("x").tolist() == [1.5, -2.0]
    assert file.tensor("none").shape == (0,)


def test_a_file_cut_after_it_was_opened_is_refused(tmp_path):
    save_file({"a": torch.ones(3000)}, tmp_path / "x.safetensors")
    file = ShardFile(tmp_path / "x.safetensors", "again")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-100])
    with pytest.raises(RetraceError, match="ends too early"):
        file.tensor("a")


@pytest.mark.parametrize("buffer", [2**20, 0])
def test_a_header_that_outgrows_its_room_begins_another_shard(tmp_path, monkeypatch, buffer):
    monkeypatch.setattr(shards, "HEADER_ROOM", 1000)
    monkeypatch.setattr(shards, "BUFFER", buffer)
    written = {f"tensor {number}": torch.full((3,), float(number)) for number in range(20)}
    weight_map = write(tmp_path, written.items())
    assert len(set(weight_map.values())) > 1
    read = {}
    for file in set(weight_map.values()):
        read |= load_file(tmp_path / file)
    assert all(torch.equal(read[name], written[name]) for name in written)


def test_shards_are_as_long_as_allowed_and_a_longer_tensor_has_its_own(tmp_path):
    written = {"a": torch.ones(4), "b": torch.ones(4), "c": torch.ones(40), "d": torch.ones(1)}
    weight_map = write(tmp_path, written.items(), max_shard_bytes=32)
    assert list(weight_map.values()) == [f"{n}-of-3.safetensors" for n in (1, 1, 2, 3)]


def test_a_long_file_is_written_without_being_held(tmp_path):
    """Peak memory of writing 300 MB is far below: measured on a process of its own."""
    import subprocess
    import sys

    script = """
import resource, sys
from pathlib import Path
import torch
from pipelines.megatron.shards import ShardFile, ShardWriter
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = Path(sys.argv[1])
ShardWriter(out, 10**9).write((str(n), torch.full((2**21,), float(n))) for n in range(36))
file = ShardFile(out / "shard-0.partial", "again")
for n in range(36):
    assert file.tensor(str(n))[-1] == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert (tmp_path / "shard-0.partial").stat().st_size > 300e6
    assert int(done.stdout) < 150_000


def header(entries, data=b"\0" * 8):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header is not whole"),
        (b"\xff" * 16, "header is not whole"),
        ((5).to_bytes(8, "little") + b"{nope", "not JSON"),
        (header([]), "not an object"),
        (header({"x": {"dtype": "F32"}}), "not that of safetensors"),
        (header({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}), "place of x is wrong"),
        (header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "place of x is wrong"),
        (header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b""), "it should have"),
        (header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 9), "it should have"),
        (header({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}}), "dtype F4, which is not supported"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(RetraceError, match=message):
        ShardFile(tmp_path / "x.safetensors", "again")
