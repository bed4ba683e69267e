"""Load, entropy and balance of routers, against counts made by hand."""

import math

import pytest
import torch

from pipelines.megatron.routing import RoutingStatistics

TOKENS = torch.arange(24).view(2, 12)


def test_balanced_uniform_routing_gives_one_and_the_largest_entropy():
    statistics = RoutingStatistics(num_layers=1, num_experts=4, topk=1)
    statistics.add(0, torch.zeros(8, 4), torch.eye(4).repeat(2, 1).bool())
    metrics = statistics.metrics()
    assert metrics == pytest.approx({"load_imbalance": 1.0, "router_entropy": math.log(4), "val_aux_loss": 1.0})


def test_one_busy_expert_gives_the_number_of_experts():
    statistics = RoutingStatistics(num_layers=1, num_experts=4, topk=1)
    routing_map = torch.zeros(8, 4).bool()
    routing_map[:, 2] = True
    statistics.add(0, routing_map.float() * 1000, routing_map)
    metrics = statistics.metrics()
    assert metrics == pytest.approx({"load_imbalance": 4.0, "router_entropy": 0.0, "val_aux_loss": 4.0}, abs=1e-9)


@pytest.mark.parametrize("method", [{"name": "topk"}, {"name": "rmoe", "recurrent_size": 6}])
def test_watching_counts_every_token_of_every_layer_and_changes_nothing(build, watch_routers, method):
    model = build(method)
    statistics = RoutingStatistics(num_layers=3, num_experts=4, topk=2)
    with torch.no_grad():
        before = model(TOKENS)
        with watch_routers(model) as seen, statistics.watching(model):
            during = model(TOKENS)
        after = model(TOKENS)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert statistics.tokens_L.tolist() == [24, 24, 24]
    for layer, (_, logits) in enumerate(seen):
        chosen = logits.flatten(0, 1).topk(2).indices
        assert statistics.tokens_LN[layer].tolist() == torch.bincount(chosen.flatten(), minlength=4).tolist()
        p = logits.flatten(0, 1).softmax(-1)
        assert statistics.entropy_L[layer].item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
