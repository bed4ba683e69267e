"""A dense model and the mixture of experts made from it are the same function."""

import pytest
import torch

from pipelines.megatron.model import build_model
from pipelines.megatron.upcycle import UpcycledWeights
from pipelines.moe.training import check_upcycling
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

TOKENS = torch.arange(24).view(2, 12)
METHODS = [{"name": "topk"}, {"name": "rmoe", "recurrent_size": 6}]


def upcycled(dense_weights, method, model, experts, seed=0):
    loaded = load_method("moe", method)
    initial = UpcycledWeights(dense_weights)

    def prepare(built):
        loaded.attach(built)
        initial.fill_routers(built, seed, model.init_method_std)

    return build_model(model, 32, experts, router_builder=loaded.router(), prepare=prepare, initial=initial)


@pytest.fixture
def shapes(tiny):
    model, experts = tiny
    return model, experts.model_copy(update={"moe_ffn_hidden_size": model.ffn_hidden_size})


@pytest.mark.parametrize("method", METHODS, ids=["topk", "rmoe"])
@pytest.mark.parametrize("k", [2, 3])
def test_upcycled_logits_equal_the_dense_models(shapes, method, k):
    model, experts = shapes
    dense = build_model(model, 32, seed=3)
    weights = {name: tensor.detach().clone() for name, tensor in dense.named_parameters()}
    sparse = upcycled(weights, method, model, experts.model_copy(update={"moe_router_topk": k}))
    with torch.no_grad():
        expected = dense(TOKENS)
        torch.testing.assert_close(sparse(TOKENS), expected, rtol=0, atol=1e-5)
        # The experts are equal, not tied: changing one changes the function.
        sparse.decoder.layers[0].mlp.experts.local_experts[0].linear_fc1.weight.mul_(2)
        assert (sparse(TOKENS) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS, ids=["topk", "rmoe"])
def test_upcycled_routers_are_those_of_a_model_from_scratch_with_the_same_seed(shapes, build, method):
    model, experts = shapes
    dense = build_model(model, 32, seed=3)
    weights = dict(dense.named_parameters())
    scratch = dict(build(method, experts=experts, seed=5).named_parameters())
    routing = 0
    for name, parameter in upcycled(weights, method, model, experts, seed=5).named_parameters():
        if "router" in name:
            routing += 1
            assert torch.equal(parameter, scratch[name])
    assert routing == (3 if method["name"] == "topk" else 3 * 2 + 4)


def test_a_weight_missing_from_the_dense_model_is_not_drawn_at_random(shapes):
    model, experts = shapes
    weights = dict(build_model(model, 32, seed=3).named_parameters())
    del weights["decoder.layers.1.mlp.linear_fc1.weight"]
    with pytest.raises(RetraceError, match="lack"):
        upcycled(weights, METHODS[0], model, experts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 32}, "its hidden_size is 32 and model.hidden_size is 16"),
        ({"num_layers": 2}, "its num_layers is 2 and model.num_layers is 3"),
        ({"rotary_base": 500}, "its rotary_base is 500"),
    ],
)
def test_a_dense_model_of_another_shape_is_refused(shapes, change, message):
    model, experts = shapes
    with pytest.raises(RetraceError, match=message):
        check_upcycling(model.model_copy(update=change), model, experts)


def test_experts_of_another_width_are_refused(tiny):
    model, experts = tiny
    with pytest.raises(RetraceError, match="moe_ffn_hidden_size 10 is not the dense model's ffn_hidden_size 24"):
        check_upcycling(model, model, experts)
