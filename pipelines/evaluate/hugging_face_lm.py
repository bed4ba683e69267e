"""The harness's Hugging Face backend over a local folder: nothing in the folder is executed, nothing is fetched."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from pipelines.evaluate.unscorable import TokenRequest, count_truncated
from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.loading import load_hf_tokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from pipelines.runs.verb import Execution


class HuggingFaceLM(HFLM):
    """HFLM that names what it cannot score, and counts what it truncates."""

    num_truncated = 0

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        # A bar is for a person; in a log it is noise.
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not sys.stderr.isatty())

    def _loglikelihood_tokens(
        self, requests: list[TokenRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        self.num_truncated += count_truncated(requests, self.max_length)
        return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)


def load_hugging_face_lm(
    folder: Path, tokenizer: Path, *, execution: Execution, batch_size: int, max_length: int | None
) -> HuggingFaceLM:
    """Load weights (safetensors only, float32) and tokenizer into the harness's backend.

    Args:
        max_length: tokens of a forward pass; None leaves it to the harness.

    Raises:
        RetraceError: the architecture is not one of transformers' own causal models, weights are missing or damaged,
            or the tokenizer has more tokens than the model embeds.
    """
    # It warns of every way to call it but its own.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if execution.device == "cuda" and not torch.cuda.is_available():
        raise RetraceError("--exec device cuda: torch sees no GPU here; use auto, or install a CUDA build of torch")
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, SafetensorError) as refused:
        reason = str(refused).split("\n", 1)[0]
        raise RetraceError(
            f"{folder}: transformers cannot load it as a causal language model ({reason:.200}); export it again"
        ) from None
    # transformers would fill these with random numbers.
    if lacking := sorted(loading["missing_keys"]):
        raise RetraceError(
            f"{folder} lacks the weights {', '.join(lacking[:3])} ({len(lacking)} in all): export it again"
        )
    loaded = load_hf_tokenizer(tokenizer)
    rows = model.get_input_embeddings().num_embeddings
    if len(loaded) > rows:
        raise RetraceError(f"--tokenizer: {tokenizer} has {len(loaded)} tokens, {folder} embeds {rows}; give its own")
    if execution.device != "cpu" and torch.cuda.is_available():
        model = model.to("cuda")
    return HuggingFaceLM(
        pretrained=model, backend="causal", tokenizer=loaded, batch_size=batch_size, max_length=max_length
    )
