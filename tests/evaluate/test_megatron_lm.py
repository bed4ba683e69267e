"""The harness model over a function from tokens to logits, against sums written out token by token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.evaluate.megatron_lm import MegatronLM
from pipelines.runs.errors import RetraceError

VOCAB = 32
EOD = 0


class Letters:
    """One token a character, modulo the vocabulary; 0 ends a document."""

    eod_id = EOD

    def encode(self, text: str) -> list[int]:
        return [1 + ord(letter) % (VOCAB - 1) for letter in text]


def bigram_logits(tokens_BS: Tensor) -> Tensor:
    """Depends on this token and the one before it, so that a wrong shift or a lost context shows."""
    table = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before_BS = torch.nn.functional.pad(tokens_BS, (1, 0), value=VOCAB - 1)[:, :-1]
    return table[before_BS, tokens_BS]


def naive(context: list[int], continuation: list[int], max_length: int) -> tuple[float, bool]:
    """Log-likelihood one token at a time, from the last ``max_length`` tokens before it."""
    whole = (context + continuation)[-(max_length + 1) :]
    total, greedy = 0.0, True
    for place in range(len(whole) - len(continuation), len(whole)):
        row = bigram_logits(torch.tensor([whole[:place]]))[0, -1].float().log_softmax(-1)
        total += float(row[whole[place]])
        greedy &= int(row.argmax()) == whole[place]
    return total, greedy


def asked(*pairs: tuple[str, ...]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


PAIRS = [
    ("the cat", " sat"),
    ("the cat", " sit"),
    ("the cat", " sad"),
    ("a much longer context than that", " x"),
    ("a much longer context than that", " y"),
    ("", " no context"),
    ("so", " different"),
]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_log_likelihoods_are_the_sums_token_by_token(batch_size: int) -> None:
    model, letters = MegatronLM(bigram_logits, Letters(), 64, batch_size), Letters()
    found = model.loglikelihood(asked(*PAIRS))
    for (context, continuation), (nats, greedy) in zip(PAIRS, found, strict=True):
        expected = naive(letters.encode(context) or [EOD], letters.encode(continuation), 64)
        assert nats == pytest.approx(expected[0], rel=1e-5)
        assert greedy == expected[1]
    assert model.num_truncated == 0


def test_greedy_is_true_for_what_greedy_decoding_gives() -> None:
    tokens = Letters().encode("ab")
    for _ in range(3):
        tokens.append(int(bigram_logits(torch.tensor([tokens]))[0, -1].argmax()))
    model = MegatronLM(bigram_logits, Letters(), 64, 4)
    [(_, greedy)] = model._loglikelihood_tokens([(None, tokens[:2], tokens[2:])])
    [(_, other)] = model._loglikelihood_tokens([(None, tokens[:2], [*tokens[2:4], (tokens[4] + 1) % VOCAB])])
    assert greedy
    assert not other


def test_long_inputs_lose_their_left_end_as_in_the_harness() -> None:
    letters = Letters()
    model = MegatronLM(bigram_logits, letters, 8, 4)
    pairs = [("a context that is far too long", " word"), ("short", " a")]
    found = model.loglikelihood(asked(*pairs))
    for (context, continuation), (nats, _) in zip(pairs, found, strict=True):
        assert nats == pytest.approx(naive(letters.encode(context), letters.encode(continuation), 8)[0], rel=1e-5)
    assert model.num_truncated == 1


def test_a_rolling_log_likelihood_predicts_every_token_once() -> None:
    letters = Letters()
    text = "twenty letters and some more"
    tokens = letters.encode(text)
    whole = MegatronLM(bigram_logits, letters, 64, 4).loglikelihood_rolling(asked((text,), ("ab",)))
    assert whole == pytest.approx([naive([EOD], tokens, 64)[0], naive([EOD], letters.encode("ab"), 64)[0]], rel=1e-5)
    # Windows of five: each starts from the token before it, the last one is filled up with what was there.
    expected = naive([EOD], tokens[:5], 5)[0]
    for start in range(5, len(tokens), 5):
        stop = min(start + 5, len(tokens))
        expected += naive(tokens[stop - 6 : start], tokens[start:stop], 5)[0]
    [windowed] = MegatronLM(bigram_logits, letters, 5, 2).loglikelihood_rolling(asked((text,)))
    assert windowed == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_scored_is_refused_by_name() -> None:
    model = MegatronLM(bigram_logits, Letters(), 8, 4)
    with pytest.raises(RetraceError, match=r"a continuation has 10 tokens and the model takes 8.*endlessly"):
        model.loglikelihood(asked(("so", " endlessly")))
    with pytest.raises(RetraceError, match="merges a continuation into its context"):
        model._loglikelihood_tokens([(("so", ""), [1], [])])
    with pytest.raises(RetraceError, match="export it to Hugging Face"):
        model.generate_until(asked(("so", "{}")))
