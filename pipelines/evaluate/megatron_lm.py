"""Our checkpoints as a model of the harness: dense and mixture-of-experts, scored as its Hugging Face backend does.

Legend: B sequences, S positions, V vocabulary, C tokens of a continuation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import Collator
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from pipelines.evaluate.unscorable import TokenRequest, count_truncated
from pipelines.megatron.checkpoint import read_config
from pipelines.megatron.inference import load_for_inference
from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.loading import load_tokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from pipelines.runs.verb import Execution


class MegatronLM(TemplateLM):
    """Scores continuations under a function from tokens to logits.

    Args:
        logits: tokens [B, S] -> logits [B, S, V].
        tokenizer: has ``encode(text) -> list[int]`` and ``eod_id``.
        max_length: positions of a forward pass; longer inputs lose their left end.
        batch_size: sequences of a forward pass.
    """

    num_truncated = 0

    def __init__(self, logits: Callable[[Tensor], Tensor], tokenizer: Any, max_length: int, batch_size: int) -> None:
        super().__init__()
        self._logits = logits
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size

    @property
    def eot_token_id(self) -> int:
        """The end of document, also what stands before a text without a context."""
        return int(self.tokenizer.eod_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; our tokenizers add no special tokens of their own."""
        return list(self.tokenizer.encode(string))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding gives it) of each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood in nats of each whole text, in windows of the model's length that overlap by one token."""
        windows: list[TokenRequest] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += nats
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refused: no task of ours generates.

        Raises:
            RetraceError: always.
        """
        raise RetraceError("a checkpoint scores texts and does not generate: export it to Hugging Face for such tasks")

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        self.num_truncated += count_truncated(requests, self.max_length)
        # Longest first, and requests that differ in their last token only share one forward pass.
        order = Collator(
            requests,
            sort_fn=lambda request: (-len(request[1] + request[2]), tuple(request[1] + request[2])),
            group_by="contexts",
            group_fn=lambda request: request[1] + request[2][:-1],
        )
        scores = []
        for chunk in order.get_batched(n=self.batch_size):
            # The last token is only predicted, never read.
            inputs = [(context + rest)[-(self.max_length + 1) :][:-1] for _, context, rest in chunk]
            tokens_BS = torch.zeros(len(inputs), max(map(len, inputs)), dtype=torch.long)
            for row, tokens in enumerate(inputs):
                tokens_BS[row, : len(tokens)] = torch.tensor(tokens)
            logits_BSV = self._logits(tokens_BS)
            for (text, context, rest), tokens, logits_SV in zip(chunk, inputs, logits_BSV, strict=True):
                logits_CV = logits_SV[len(tokens) - len(rest) : len(tokens)].float().log_softmax(dim=-1)
                for _, wanted, found_1CV in order.get_cache(
                    req_str=text, cxt_toks=context, cont_toks=rest, logits=logits_CV.unsqueeze(0)
                ):
                    scores.append(_score(found_1CV[0, -len(wanted) :], wanted))
        return order.get_original(scores)


def load_megatron_lm(
    checkpoint: Path, tokenizer: Path, *, execution: Execution, batch_size: int, max_length: int
) -> MegatronLM:
    """Load a checkpoint and the tokenizer it was trained with.

    Raises:
        RetraceError: no whole checkpoint, or a tokenizer with more tokens than it embeds.
    """
    config = read_config(checkpoint)
    loaded = load_tokenizer(tokenizer)
    if loaded.vocab_size > config["vocab_size"]:
        raise RetraceError(
            f"--tokenizer: {tokenizer} has {loaded.vocab_size} tokens, {checkpoint} embeds {config['vocab_size']}; "
            "give the tokenizer it was trained with"
        )
    logits = load_for_inference(checkpoint, execution)
    return MegatronLM(logits, loaded, max_length, batch_size)


def _score(logits_CV: Tensor, wanted: list[int]) -> tuple[float, bool]:
    wanted_C = torch.tensor(wanted, device=logits_CV.device)
    nats = logits_CV.gather(1, wanted_C.unsqueeze(1)).sum()
    return float(nats), bool((logits_CV.argmax(dim=1) == wanted_C).all())
