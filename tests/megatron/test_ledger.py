"""A run that goes on from a checkpoint: where its data starts, what it has cost, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.megatron.ledger import check_vocabulary, continuation
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.errors import RetraceError

MODEL = ModelSpec(
    num_layers=2, hidden_size=8, ffn_hidden_size=12, num_attention_heads=2, num_query_groups=1, seq_length=8
)
CONFIG = {
    "model": MODEL.model_dump(),
    "vocab_size": 32,
    "tokenizer_key": "a",
    "tokens_seen": 640,
    "flops_spent": 99,
    "next_sequence": 80,
    "seed": 3,
}


def test_a_run_goes_on_where_the_checkpoint_stopped():
    expected = {"start_sequence": 80, "tokens_offset": 640, "flops_offset": 99}
    assert continuation(CONFIG, MODEL, 3, "base") == expected


def test_an_imported_checkpoint_has_no_history_whatever_the_seed():
    config = {"model": {"seq_length": 4}, "vocab_size": 32, "tokens_seen": 0, "flops_spent": 0}
    assert continuation(config, MODEL, 7, "dense") == {"start_sequence": 0, "tokens_offset": 0, "flops_offset": 0}


@pytest.mark.parametrize(
    ("config", "seed", "message"),
    [
        (CONFIG, 4, "--dense was trained with seed 3 and this job has seed 4"),
        (
            {**CONFIG, "model": {"seq_length": 16}},
            3,
            "--dense was trained with seq_length 16 and model.seq_length is 8",
        ),
    ],
)
def test_an_order_that_would_repeat_sequences_is_refused(config, seed, message):
    with pytest.raises(RetraceError, match=message):
        continuation(config, MODEL, seed, "dense")


@pytest.mark.parametrize(
    ("vocab_size", "key", "message"),
    [(33, "a", "--base has a vocabulary of 32 and tokens one of 33"), (32, "b", "another tokenizer")],
)
def test_tokens_of_another_tokenizer_are_refused(vocab_size, key, message):
    tokens = SimpleNamespace(path=Path("tokens"), vocab_size=vocab_size, tokenizer_key=key)
    with pytest.raises(RetraceError, match=message):
        check_vocabulary(CONFIG, tokens, "base")


@pytest.mark.parametrize("key", ["a", None])
def test_the_checkpoints_own_tokens_and_tokens_of_unknown_origin_are_taken(key):
    check_vocabulary(CONFIG, SimpleNamespace(path=Path("tokens"), vocab_size=32, tokenizer_key=key), "base")
