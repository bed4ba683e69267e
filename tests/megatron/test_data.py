import json

import numpy as np
import pytest
import torch

from pipelines.megatron.data import (
    IGNORED,
    TrainingWindows,
    evaluation_windows,
    micro_batches,
    open_tokens,
)
from pipelines.runs.errors import RetraceError


def stream(count=101):
    return np.arange(count, dtype=np.uint16)


def step(windows, number, ranks=1, micro=2, batch=4):
    """inputs of a whole step, put together from all ranks in the order of micro-batches."""
    dealt = [list(micro_batches(windows, number, batch, micro, rank, ranks)) for rank in range(ranks)]
    return [batches[at] for at in range(len(dealt[0])) for batches in dealt]


def test_windows_overlap_by_one_token_and_cover_the_stream_once_an_epoch():
    windows = TrainingWindows(stream(), seq_length=10, seed=0)
    sequences = windows.sequences(0, windows.num_windows)
    assert sequences.shape == (10, 11)
    assert sorted(sequences[:, 1:].flatten().tolist()) == list(range(1, 101))
    assert all(row.tolist() == list(range(int(row[0]), int(row[0]) + 11)) for row in sequences)


def test_each_epoch_has_its_own_order_from_the_seed():
    orders = [[TrainingWindows(stream(), 10, seed).window(n) for n in range(20)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:10]) == sorted(orders[0][10:]) == list(range(10))
    assert orders[0][:10] != orders[0][10:]


def test_labels_are_the_next_tokens():
    for inputs, labels in micro_batches(TrainingWindows(stream(), 10, 0), 1, 4, 2, 0, 1):
        assert torch.equal(inputs + 1, labels)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_step_has_the_same_micro_batches_however_many_ranks_share_it(ranks):
    windows = TrainingWindows(stream(), 10, 0)
    alone, shared = step(windows, 3, 1, batch=8), step(windows, 3, ranks, batch=8)
    assert len(alone) == len(shared) == 4
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one[0], other[0])


def test_a_run_that_starts_after_another_goes_on_where_it_stopped():
    base, grown = TrainingWindows(stream(), 10, 0), TrainingWindows(stream(), 10, 0, start=3 * 4)
    for one, other in zip(step(base, 4), step(grown, 1), strict=True):
        assert torch.equal(one[0], other[0])
    assert grown.epochs(15) == 1.5


def test_a_stream_shorter_than_a_sequence_is_refused():
    with pytest.raises(RetraceError, match=r"10 tokens.*seq_length 10"):
        TrainingWindows(stream(10), 10, 0)
    assert TrainingWindows(stream(11), 10, 0).num_windows == 1


def test_evaluation_predicts_every_token_once_from_an_end_of_document_mark(tokens):
    artifact = open_tokens(tokens)
    text, split = evaluation_windows(artifact, 16), artifact.split("validation")
    counted = text.labels.flatten() != IGNORED
    assert text.labels.flatten()[counted].tolist() == split.tokens.tolist()
    assert text.inputs.flatten()[counted].tolist() == [artifact.eod_id, *split.tokens[:-1].tolist()]
    assert (text.num_tokens, text.num_bytes) == (split.num_tokens, artifact.splits["validation"]["num_bytes"])


def test_a_limited_evaluation_takes_whole_documents_and_their_bytes(tokens):
    artifact = open_tokens(tokens)
    text = evaluation_windows(artifact, 16, eval_tokens=150)
    assert text.num_tokens == 2 * 71
    assert text.num_bytes == sum(artifact.splits["validation"]["document_bytes"][:2])
    assert text.exact
    assert evaluation_windows(artifact, 16, eval_tokens=1).num_tokens == 71
    whole = evaluation_windows(artifact, 16, eval_tokens=10**6)
    assert whole.num_tokens == artifact.split("validation").num_tokens


def test_without_bytes_a_document_a_limited_evaluation_says_its_bytes_are_scaled(tokens):
    artifact = open_tokens(tokens)
    del artifact.splits["validation"]["document_bytes"]
    text = evaluation_windows(artifact, 16, eval_tokens=150)
    assert not text.exact
    assert text.num_bytes == pytest.approx(2 * 210)


def test_a_folder_that_is_no_token_artifact_is_refused(tmp_path):
    with pytest.raises(RetraceError, match=r"tokens\.json is missing"):
        open_tokens(tmp_path)
    (tmp_path / "tokens.json").write_text(json.dumps({"vocab_size": 3}))
    with pytest.raises(RetraceError, match="eod_id"):
        open_tokens(tmp_path)
