"""Load, entropy and balance of routers, against counts made by hand."""

import math

import pytest
import torch

from pipelines.megatron.data import IGNORED
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
    plain, model = build(method), build(method)
    statistics = RoutingStatistics(num_layers=3, num_experts=4, topk=2)
    statistics.watch(model)
    with torch.no_grad():
        for training in (True, False):
            with watch_routers(model) as seen:
                assert torch.equal(model.train(training)(TOKENS), plain.train(training)(TOKENS))
    assert statistics.tokens_L.tolist() == [24, 24, 24]
    for layer, (_, logits) in enumerate(seen):
        chosen = logits.flatten(0, 1).topk(2).indices
        assert statistics.tokens_LN[layer].tolist() == torch.bincount(chosen.flatten(), minlength=4).tolist()
        p = logits.flatten(0, 1).softmax(-1)
        assert statistics.entropy_L[layer].item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)


def test_only_the_last_evaluation_counts_and_ignored_labels_do_not(build):
    model = build({"name": "topk"})
    statistics = RoutingStatistics(num_layers=3, num_experts=4, topk=2)
    statistics.watch(model)
    labels = TOKENS.clone()
    labels[1, 5:] = IGNORED
    with torch.no_grad():
        model.eval()(TOKENS, labels=TOKENS)
        model(TOKENS, labels=TOKENS)
        assert statistics.tokens_L.tolist() == [48, 48, 48]
        model.train()(TOKENS, labels=TOKENS)
        assert statistics.tokens_L.tolist() == [48, 48, 48]
        model.eval()(TOKENS, labels=labels)
    assert statistics.tokens_L.tolist() == [17, 17, 17]
    assert statistics.tokens_LN.sum(-1).tolist() == [34, 34, 34]
    # The padded row counts as the same five tokens alone would.
    alone = RoutingStatistics(num_layers=3, num_experts=4, topk=2)
    short = build({"name": "topk"}).eval()
    alone.watch(short)
    with torch.no_grad():
        short(TOKENS[:1], labels=TOKENS[:1])
        short(TOKENS[1:, :5], labels=TOKENS[1:, :5])
    torch.testing.assert_close(alone.probs_LN, statistics.probs_LN, rtol=1e-5, atol=0)
