"""Fused experts: seen into without changing what they compute, and masked as the linear layers they stand for."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from pipelines.continual.experts import is_fused_experts, record_experts
from pipelines.continual.magnitudes import MagnitudeRecorder
from pipelines.continual.protocol import TokenMasks
from pipelines.continual.row_masks import rank_mask


def experts_of(model):
    return {name: module for name, module in model.named_modules() if is_fused_experts(module)}


def test_recording_leaves_logits_and_gradients_bit_identical(make_model, make_family, encoded_tasks):
    results = []
    for recorded in (False, True):
        model = make_model("mixtral")
        if recorded:
            assert len(experts_of(model)) == 2
            for experts in experts_of(model).values():
                record_experts(experts, lambda *seen: None)
        family = make_family("mixtral", model)
        logits = family.label_logits(family.collate(encoded_tasks[0].train, encoded_tasks[0]))
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, recorded) for plain, recorded in zip(*results, strict=True))


def test_the_original_forward_comes_back(make_model):
    experts = next(iter(experts_of(make_model("mixtral")).values()))
    undo = record_experts(experts, lambda *seen: None)
    assert "forward" in vars(experts)
    undo()
    assert "forward" not in vars(experts)


@pytest.mark.parametrize("count_padding", [False, True])
def test_magnitudes_are_those_of_the_tokens_routed_to_each_expert(make_model, count_padding):
    model = make_model("mixtral")
    recorder = MagnitudeRecorder(model, set(), count_padding=count_padding, per_token=False)
    name, experts = next(iter(experts_of(model).items()))
    tokens = torch.ones(2, 5)
    tokens[1, :3] = 0
    hidden = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    routes = torch.tensor([[0, 2], [0, 1], [2, 1], [0, 2], [1, 2], [0, 1], [2, 1], [0, 2], [0, 1], [2, 0]])
    recorder.start(TokenMasks(tokens))
    experts(hidden, routes, torch.full((10, 2), 0.5))
    gate_up, down = (
        next(s for s in recorder.sources if s.name == f"{name}.{end}") for end in ("gate_up_proj", "down_proj")
    )
    for expert in range(3):
        expected_gate_up, expected_down = torch.zeros(40), torch.zeros(16)
        for token in range(10):
            if expert in routes[token] and (count_padding or tokens.flatten()[token]):
                both = linear(hidden[token], experts.gate_up_proj[expert])
                expected_gate_up += both.abs()
                expected_down += linear(
                    torch.nn.functional.silu(both[:20]) * both[20:], experts.down_proj[expert]
                ).abs()
        torch.testing.assert_close(gate_up.magnitudes[expert], expected_gate_up.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(down.magnitudes[expert], expected_down.detach(), rtol=1e-5, atol=1e-6)


def test_gate_up_and_down_of_every_expert_are_ranked_apart(make_model):
    model = make_model("mixtral")
    recorder = MagnitudeRecorder(model, set(), count_padding=False, per_token=False)
    gate_up = next(source for source in recorder.sources if source.name.endswith("gate_up_proj"))
    gate_up.magnitudes.copy_(torch.rand(3, 40, generator=torch.Generator().manual_seed(0)))
    gate_up.magnitudes[:, 20:] *= 1000
    mask = gate_up.mask(lambda n: rank_mask(n, 0.7))
    assert mask.shape == (3, 40)
    assert mask[:, :20].sum(dim=1).tolist() == mask[:, 20:].sum(dim=1).tolist() == [6, 6, 6]
    down = next(source for source in recorder.sources if source.name.endswith("down_proj"))
    assert down.mask(lambda n: rank_mask(n, 0.7)).sum(dim=1).tolist() == [5, 5, 5]


def test_routers_and_embeddings_are_not_masked(make_model):
    recorder = MagnitudeRecorder(make_model("mixtral"), {"lm_head"}, count_padding=False, per_token=False)
    kinds = {source.name.rsplit(".", 1)[-1] for source in recorder.sources}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}
