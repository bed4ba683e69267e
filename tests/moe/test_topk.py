"""The baseline router and the layer around it, against naive versions."""

import pytest
import torch
from torch.nn.functional import linear, silu

from pipelines.runs.methods import load_method

TOKENS = torch.arange(24).view(2, 12)


def naive_layer(x, router, experts, k):
    """y = sum over the k best experts of gate * expert(x), gates renormalised; token by token."""
    y = torch.zeros_like(x)
    for t, token in enumerate(x):
        gates = linear(token, router.weight).softmax(-1)
        best = gates.topk(k)
        for gate, e in zip(best.values / best.values.sum(), best.indices.tolist(), strict=True):
            gate_x, up_x = linear(token, experts[e].linear_fc1.weight).chunk(2)
            y[t] += gate * linear(silu(gate_x) * up_x, experts[e].linear_fc2.weight)
    return y


@pytest.mark.parametrize("k", [2, 3, 4])
def test_layer_output_equals_a_loop_over_tokens_and_experts(build, tiny, k):
    experts = tiny[1].model_copy(update={"moe_router_topk": k})
    layer = build({"name": "topk"}, experts=experts).decoder.layers[0].mlp
    x = torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, _ = layer(x)
        expected = naive_layer(x.flatten(0, 1), layer.router, layer.experts.local_experts, k)
    torch.testing.assert_close(output.flatten(0, 1), expected, rtol=1e-5, atol=1e-6)


def test_auxiliary_loss_gradient_is_that_of_the_formula(build, tiny):
    coeff = 0.3
    experts = tiny[1].model_copy(update={"moe_aux_loss_coeff": coeff})
    layer = build({"name": "topk"}, experts=experts).decoder.layers[0].mlp
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

    x = torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0))
    output, _ = layer(x)
    # A schedule that ran before may have left its number of micro-batches in this class variable.
    MoEAuxLossAutoScaler.set_loss_scale(torch.tensor(1.0))
    (output * 0).sum().backward()

    weight = layer.router.weight.detach().clone().requires_grad_()
    probs = linear(x.flatten(0, 1), weight).softmax(-1)
    n, k, t = 4, 2, 12
    share = torch.zeros(t, n).scatter(1, probs.topk(k).indices, 1.0).sum(0) / (t * k)
    (coeff * n * (share * probs.mean(0)).sum()).backward()
    torch.testing.assert_close(layer.router.weight.grad, weight.grad, rtol=1e-5, atol=1e-8)


def test_the_baseline_adds_nothing(tiny):
    method = load_method("moe", {"name": "topk"})
    assert method.num_extra_parameters(*tiny) == 0
    assert method.extra_flops_per_token(*tiny) == 0
