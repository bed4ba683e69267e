"""Decoder-only language models: the answer continues the prompt.

Training: prompt and answer in one sequence, loss on the answer's tokens only. Prediction: the option with the largest
summed log-likelihood; the prompt goes through the model once, with all options behind it that do not see each other.
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
        """Summed log-likelihood (nats) of every option after every prompt: scores_BO, O options.

        S positions of prompts and J of options: all options' tokens but their last, one after another.
        """
        device = self.model.device
        layout = OptionLayout(task.options, device)
        prompt_BS = token_mask(prompts, device, left=True)
        num_prompts = len(prompts)
        ids_BS = pad(prompts, self.padding, device, left=True)
        last_B1 = prompt_BS.sum(dim=1, keepdim=True) - 1
        logits_BJC = self.model(
            input_ids=torch.cat([ids_BS, layout.inputs_J.expand(num_prompts, -1)], dim=1),
            attention_mask=layout.attention(prompt_BS),
            position_ids=torch.cat([_positions(prompt_BS), last_B1 + layout.depths_J], dim=1),
            logits_to_keep=1 + len(layout.inputs_J),
            use_cache=False,
        ).logits.float()
        # W: every token of every option, with the position it is predicted from.
        target_BW = logits_BJC[:, layout.sources_W, layout.targets_W]
        log_BW = target_BW - logits_BJC.logsumexp(dim=-1)[:, layout.sources_W]
        scores_BO = log_BW.new_zeros(num_prompts, len(task.options))
        return scores_BO.index_add_(1, layout.options_W, log_BW)


class OptionLayout:
    """Where the tokens of several options stand behind one prompt, none seeing another option's.

    Attributes:
        inputs_J: tokens fed behind the prompt: every option without its last token, in a row.
        depths_J: place of each in its option, from 1.
        sources_W: for each token to predict, where its logits are: 0 is the prompt's end, j + 1 is input j.
        targets_W, options_W: the token to predict and the option it belongs to.
    """

    def __init__(self, options: Sequence[Ids], device: torch.device) -> None:
        inputs: list[int] = []
        depths: list[int] = []
        owners: list[int] = []
        sources: list[int] = []
        targets: list[int] = []
        target_owners: list[int] = []
        for owner, option in enumerate(options):
            sources += [0, *range(len(inputs) + 1, len(inputs) + len(option))]
            inputs += option[:-1]
            depths += range(1, len(option))
            owners += [owner] * (len(option) - 1)
            targets += option
            target_owners += [owner] * len(option)
        self.inputs_J = torch.tensor(inputs, dtype=torch.long, device=device)
        self.depths_J = torch.tensor(depths, dtype=torch.long, device=device)
        self.sources_W = torch.tensor(sources, device=device)
        self.targets_W = torch.tensor(targets, device=device)
        self.options_W = torch.tensor(target_owners, device=device)
        owners_J = torch.tensor(owners, dtype=torch.long, device=device)
        causal_JJ = torch.ones(len(inputs), len(inputs), dtype=torch.bool, device=device).tril()
        self._own_JJ = causal_JJ & (owners_J.unsqueeze(0) == owners_J.unsqueeze(1))

    def attention(self, prompt_BS: Tensor) -> Tensor:
        """True where a query sees a key: [B, 1, S + J, S + J]; padding sees itself, as no row may be empty."""
        num_prompts, length = prompt_BS.shape
        total = length + len(self.inputs_J)
        seen = prompt_BS.new_zeros(num_prompts, total, total, dtype=torch.bool)
        seen[:, :, :length] = prompt_BS.bool().unsqueeze(1)
        seen[:, :length, :length] &= torch.ones_like(seen[0, :length, :length]).tril()
        seen[:, length:, length:] = self._own_JJ
        seen.diagonal(dim1=1, dim2=2).fill_(True)
        return seen.unsqueeze(1)


def _positions(mask_BS: Tensor) -> Tensor:
    """Positions that count real tokens from 0, whatever the padding on the left."""
    return (mask_BS.cumsum(dim=1) - 1).clamp(min=0)
