"""What every routing method must keep, whichever it is."""

import pytest
import torch

from pipelines.runs.methods import list_methods, load_method, method_card

TOKENS = torch.arange(24).view(2, 12)
# Small enough for the tiny models; a method not named here is built with its defaults.
SMALL = {"rmoe": {"recurrent_size": 6}}
METHODS = list_methods("moe")


def card(name):
    return {"name": name, **SMALL.get(name, {})}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_paper_and_equation_and_has_the_hooks_of_the_protocol(name, tiny):
    method = load_method("moe", card(name))
    assert method_card("moe", name).summary
    assert isinstance(method.supports_pipeline, bool)
    assert isinstance(method.exports_as_mixtral, bool)
    assert callable(method.router())
    module = __import__(type(method).__module__, fromlist=["_"])
    assert "Paper:" in module.__doc__
    assert "Deviations:" in module.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_parameter_count_is_what_the_built_model_has(name, build, tiny):
    from pipelines.megatron.flops import count_parameters

    model, experts = tiny
    built = sum(p.numel() for p in build(card(name)).parameters())
    extra = load_method("moe", card(name)).num_extra_parameters(model, experts)
    assert built == count_parameters(model, 32, experts) + extra


@pytest.mark.parametrize("name", METHODS)
def test_every_method_routes_deterministically_to_k_experts_with_gates_that_sum_to_one(name, build):
    first, second = build(card(name)), build(card(name))
    with torch.no_grad():
        assert torch.equal(first(TOKENS), second(TOKENS))
        for layer in first.decoder.layers:
            hidden = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(layer.layer_number))
            probs, routing_map = layer.mlp.router(hidden)
            assert routing_map.shape == probs.shape == (10, 4)
            assert torch.equal(routing_map.sum(-1), torch.full((10,), 2))
            torch.testing.assert_close(probs.sum(-1), torch.ones(10))
            assert torch.equal(probs > 0, routing_map)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_every_method_gets_a_gradient(name, build):
    model = build(card(name))
    model(TOKENS, labels=TOKENS.flip(0)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("name", METHODS)
def test_every_model_reloads_from_its_own_parameters(name, build):
    model = build(card(name), seed=1)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        assert torch.equal(build(card(name), seed=2, initial=weights)(TOKENS), model(TOKENS))


@pytest.mark.parametrize("name", METHODS)
def test_listing_and_describing_methods_loads_no_torch(name):
    import subprocess
    import sys

    code = (
        "import sys; from pipelines.runs.methods import load_method; from pipelines.moe import verbs; "
        f"load_method('moe', {card(name)!r}).supports_pipeline; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
