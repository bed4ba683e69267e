"""Encoder-decoder models: the encoder reads the prompt, the decoder writes the answer.

Training: loss on the answer's tokens. Prediction: the option with the largest summed log-likelihood; the encoder runs
once a prompt.
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


class Seq2SeqFamily:
    """T5ForConditionalGeneration and other ``...ForConditionalGeneration`` of transformers."""

    def __init__(self, model: PreTrainedModel, padding: int) -> None:
        self.model = model
        self.padding = padding
        start = model.config.decoder_start_token_id
        self.start = padding if start is None else start

    def collate(self, examples: Sequence[tuple[Ids, int]], task: EncodedTask) -> Batch:
        """Prompts for the encoder, answers shifted by the start token for the decoder."""
        device = self.model.device
        prompts = [prompt for prompt, _ in examples]
        answers = [task.options[label] for _, label in examples]
        masks = TokenMasks(token_mask(prompts, device), token_mask(answers, device))
        tensors = {
            "input_ids": pad(prompts, self.padding, device),
            "attention_mask": masks.encoder_BS,
            "decoder_input_ids": pad([(self.start, *answer[:-1]) for answer in answers], self.padding, device),
        }
        return Batch(tensors, {"use_cache": False}, pad(answers, IGNORED, device), masks)

    def label_logits(self, batch: Batch) -> Tensor:
        """Logits at every position of the answer."""
        return self.model(**batch.tensors, **batch.options).logits

    def predict(self, prompts: Sequence[Ids], task: EncodedTask) -> list[int]:
        """Option of the largest summed log-likelihood; the first of equals."""
        return self.option_scores(prompts, task).argmax(dim=1).tolist()

    def option_scores(self, prompts: Sequence[Ids], task: EncodedTask) -> Tensor:
        """Summed log-likelihood (nats) of every option for every prompt: scores_BO, O options."""
        device = self.model.device
        num_options = len(task.options)
        mask_BS = token_mask(prompts, device)
        encoded = self.model.get_encoder()(
            input_ids=pad(prompts, self.padding, device), attention_mask=mask_BS, return_dict=True
        )
        encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(num_options, dim=0)
        answers_NK = pad(task.options, IGNORED, device).repeat(len(prompts), 1)
        starts_N1 = torch.full_like(answers_NK[:, :1], self.start)
        previous_NK = answers_NK[:, :-1].where(answers_NK[:, :-1] != IGNORED, self.padding)
        logs_NKC = (
            self.model(
                encoder_outputs=encoded,
                attention_mask=mask_BS.repeat_interleave(num_options, dim=0),
                decoder_input_ids=torch.cat([starts_N1, previous_NK], dim=1),
                use_cache=False,
            )
            .logits.float()
            .log_softmax(-1)
        )
        chosen_NK = logs_NKC.gather(-1, answers_NK.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return chosen_NK.where(answers_NK != IGNORED, 0.0).sum(dim=1).view(len(prompts), num_options)
