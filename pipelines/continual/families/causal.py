"""Decoder-only language models: the answer continues the prompt.

Training: prompt and answer in one sequence, loss on the answer's tokens only. Prediction: the option with the largest
summed log-likelihood; the prompt goes through the model once and its keys and values serve every option.
Examples are padded on the left, so that all answers end in the last column and logits are made for those columns alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipelines.continual.families.batch import IGNORED, Batch, pad, token_mask
from pipelines.continual.protocol import TokenMasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from pipelines.continual.prompts import EncodedTask, Ids


class CausalFamily:
    """LlamaForCausalLM, MixtralForCausalLM and other ``...ForCausalLM`` of transformers."""

    def __init__(self, model: PreTrainedModel, padding: int) -> None:
        self.model = model
        self.padding = padding

    def collate(self, examples: Sequence[tuple[Ids, int]], task: EncodedTask) -> Batch:
        """Sequences of prompt and answer; labels cover the last columns."""
        device = self.model.device
        answers = [task.options[label] for _, label in examples]
        sequences = [prompt + answer for (prompt, _), answer in zip(examples, answers, strict=True)]
        labels_BK = pad(answers, IGNORED, device, left=True)
        mask_BS = token_mask(sequences, device, left=True)
        tensors = {
            "input_ids": pad(sequences, self.padding, device, left=True),
            "attention_mask": mask_BS,
            "position_ids": _positions(mask_BS),
        }
        options = {"logits_to_keep": labels_BK.shape[1] + 1, "use_cache": False}
        return Batch(tensors, options, labels_BK, TokenMasks(mask_BS))

    def label_logits(self, batch: Batch) -> Tensor:
        """Logits before each label column."""
        return self.model(**batch.tensors, **batch.options).logits[:, :-1]

    def predict(self, prompts: Sequence[Ids], task: EncodedTask) -> list[int]:
        """Option of the largest summed log-likelihood; the first of equals."""
        return self.option_scores(prompts, task).argmax(dim=1).tolist()

    def option_scores(self, prompts: Sequence[Ids], task: EncodedTask) -> Tensor:
        """Summed log-likelihood (nats) of every option after every prompt: scores_BO, O options."""
        device = self.model.device
        num_options = len(task.options)
        mask_BS = token_mask(prompts, device, left=True)
        output = self.model(
            input_ids=pad(prompts, self.padding, device, left=True),
            attention_mask=mask_BS,
            position_ids=_positions(mask_BS),
            logits_to_keep=1,
            use_cache=True,
        )
        first_B1C = output.logits.float().log_softmax(-1)
        answers_OK = pad(task.options, IGNORED, device)
        logs_BO = first_B1C[:, 0, answers_OK[:, 0]]
        if answers_OK.shape[1] == 1:
            return logs_BO
        cache = output.past_key_values
        cache.batch_repeat_interleave(num_options)
        # N = B x O continuations: all but the last token of every option, given once to every prompt.
        inputs_OK = answers_OK[:, :-1]
        given_OK = inputs_OK != IGNORED
        repeated_NS = mask_BS.repeat_interleave(num_options, dim=0)
        given_NK = given_OK.repeat(len(prompts), 1)
        mask_NS = torch.cat([repeated_NS, given_NK.to(repeated_NS.dtype)], dim=1)
        logs_NKC = (
            self.model(
                input_ids=inputs_OK.where(given_OK, self.padding).repeat(len(prompts), 1),
                attention_mask=mask_NS,
                position_ids=_positions(mask_NS)[:, -inputs_OK.shape[1] :],
                past_key_values=cache,
                use_cache=True,
            )
            .logits.float()
            .log_softmax(-1)
        )
        targets_NK = answers_OK[:, 1:].repeat(len(prompts), 1)
        chosen_NK = logs_NKC.gather(-1, targets_NK.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        rest_N = chosen_NK.where(targets_NK != IGNORED, 0.0).sum(dim=1)
        return logs_BO + rest_N.view(len(prompts), num_options)


def _positions(mask_BS: Tensor) -> Tensor:
    """Positions that count real tokens from 0, whatever the padding on the left."""
    return (mask_BS.cumsum(dim=1) - 1).clamp(min=0)
