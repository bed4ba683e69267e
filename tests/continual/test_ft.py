"""Sequential finetuning against a naive loop."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import log_softmax

from pipelines.continual.methods.ft import FineTuning
from pipelines.continual.protocol import Strategy


def test_finetuning_equals_a_naive_loop_over_single_unpadded_examples(train, make_model, encoded_tasks):
    lr, weight_decay, limit, size, seed = 0.003, 0.1, 0.5, 4, 5
    model, _, _ = train("llama", "ft", lr=lr, weight_decay=weight_decay, clip_grad=limit, batch_size=size, epochs=2)
    naive = make_model("llama").train()
    for index, task in enumerate(encoded_tasks):
        decayed = [each for each in naive.parameters() if each.dim() > 1]
        plain = [each for each in naive.parameters() if each.dim() == 1]
        optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr, (0.9, 0.999))
        optimizer.param_groups[0]["weight_decay"] = weight_decay
        for epoch in range(2):
            order = np.random.default_rng(np.random.SeedSequence([seed, index, epoch])).permutation(len(task.train))
            for first in range(0, len(order), size):
                losses = []
                for prompt, label in (task.train[place] for place in order[first : first + size]):
                    answer = task.options[label]
                    logs = log_softmax(naive(torch.tensor([prompt + answer])).logits[0], dim=-1)
                    losses += [-logs[len(prompt) - 1 + place, token] for place, token in enumerate(answer)]
                optimizer.zero_grad()
                torch.stack(losses).mean().backward()
                torch.nn.utils.clip_grad_norm_(naive.parameters(), limit)
                optimizer.step()
    for (name, one), other in zip(model.named_parameters(), naive.parameters(), strict=True):
        # Adam's first steps have the sign of the gradient alone, which rounding decides where it is nearly zero.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4, msg=name)


def test_plain_finetuning_adds_nothing_to_the_loop(make_model):
    assert type(FineTuning().start(make_model("llama"), seed=0)) is Strategy
