import subprocess
import sys

import numpy as np
import pytest

from pipelines.megatron.indexed import bin_path, idx_path, read_tokens, write_documents
from pipelines.runs.errors import RetraceError


def documents(vocab_size, lengths=(5, 1, 0, 37, 2), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, size=length) for length in lengths]


@pytest.mark.parametrize("vocab_size", [2048, 65499, 65500, 200_000])
def test_what_is_written_is_read_back(tmp_path, vocab_size):
    docs = documents(vocab_size)
    assert write_documents(tmp_path / "train", docs, vocab_size) == (5, 45)
    tokens = read_tokens(tmp_path / "train")
    assert isinstance(tokens.tokens, np.memmap)
    assert tokens.tokens.dtype == (np.uint16 if vocab_size < 65500 else np.int32)
    assert tokens.document_lengths.tolist() == [5, 1, 0, 37, 2]
    assert (tokens.num_documents, tokens.num_tokens) == (5, 45)
    np.testing.assert_array_equal(tokens.tokens, np.concatenate(docs))
    np.testing.assert_array_equal(tokens.document(3), docs[3])


def test_nothing_written_is_an_empty_file_read_back(tmp_path):
    write_documents(tmp_path / "train", [], 100)
    assert read_tokens(tmp_path / "train").num_documents == 0


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [2048, 70_000])
def test_files_equal_megatrons_builder_byte_for_byte_and_its_reader_reads_ours(tmp_path, vocab_size):
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

    docs = documents(vocab_size, lengths=(5, 1, 37, 2))
    write_documents(tmp_path / "ours", docs, vocab_size)
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=DType.optimal_dtype(vocab_size))
    for ids in docs:
        builder.add_document(torch.from_numpy(ids), [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for path in (bin_path, idx_path):
        assert path(tmp_path / "ours").read_bytes() == path(tmp_path / "theirs").read_bytes()
    reader = IndexedDataset(str(tmp_path / "ours"))
    for ids, read in zip(docs, reader, strict=True):
        np.testing.assert_array_equal(ids, read)


@pytest.mark.slow
def test_documents_of_several_sequences_from_megatron_are_read_whole(tmp_path):
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "many.bin"), dtype=np.int32)
    builder.add_document(torch.arange(10), [4, 6])
    builder.add_document(torch.arange(3), [3])
    builder.finalize(str(tmp_path / "many.idx"))
    assert read_tokens(tmp_path / "many").document_lengths.tolist() == [10, 3]


def test_an_id_outside_the_vocabulary_is_refused_with_its_document(tmp_path):
    with pytest.raises(RetraceError, match=r"document 1 .* outside the vocabulary of 10"):
        write_documents(tmp_path / "train", [np.array([1, 2]), np.array([3, 10])], 10)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RetraceError, match=r"train\.bin is missing"):
        read_tokens(tmp_path / "train")
    write_documents(tmp_path / "train", documents(100), 100)
    whole = bin_path(tmp_path / "train").read_bytes()
    bin_path(tmp_path / "train").write_bytes(whole[:-2])
    with pytest.raises(RetraceError, match=r"train\.bin has 88 bytes but its index names 90"):
        read_tokens(tmp_path / "train")
    bin_path(tmp_path / "train").write_bytes(whole)
    index = idx_path(tmp_path / "train").read_bytes()
    for damaged in (b"", index[:20], index[:-1], b"XX" + index[2:]):
        idx_path(tmp_path / "train").write_bytes(damaged)
        with pytest.raises(RetraceError, match=r"train\.idx is not a whole Megatron index"):
            read_tokens(tmp_path / "train")


def test_token_files_need_no_torch():
    code = "import sys, pipelines.megatron.indexed; sys.exit('torch' in sys.modules or 'megatron' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
