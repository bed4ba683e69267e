"""The recurrent router against its equations, its invariants and its counts."""

import pytest
import torch
from torch.nn.functional import linear

from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.methods import load_method

RMOE = {"name": "rmoe", "recurrent_size": 6}
TOKENS = torch.arange(24).view(2, 12)


def naive_logits(router_inputs, parameters):
    """Equations 2-6 of arXiv 2408.06793, one layer after another; the state starts at zero."""
    w_i, w_h = parameters["router_recurrence.cell.weight_ih"], parameters["router_recurrence.cell.weight_hh"]
    b_i, b_h = parameters["router_recurrence.cell.bias_ih"], parameters["router_recurrence.cell.bias_hh"]
    h, logits = 0.0, []
    for i, x in enumerate(router_inputs):
        a = linear(x @ parameters[f"decoder.layers.{i}.mlp.router.projector"].T, w_i, b_i)
        u = linear(h if i else torch.zeros(*x.shape[:-1], w_h.shape[1]), w_h, b_h)
        (a_r, a_z, a_n), (u_r, u_z, u_n) = a.chunk(3, dim=-1), u.chunk(3, dim=-1)
        r, z = torch.sigmoid(a_r + u_r), torch.sigmoid(a_z + u_z)
        n = torch.tanh(a_n + r * u_n)
        h = (1 - z) * n + z * h
        logits.append(h @ parameters[f"decoder.layers.{i}.mlp.router.gate"].T)
    return logits


def test_logits_equal_a_naive_version_of_the_equations(build, watch_routers):
    model = build(RMOE)
    with torch.no_grad(), watch_routers(model) as seen:
        model(TOKENS)
        expected = naive_logits([x for x, _ in seen], dict(model.named_parameters()))
    assert len(seen) == 3
    for (_, logits), wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-6)


def test_gates_are_a_softmax_over_all_experts_renormalised_over_the_top_k(build, watch_routers):
    model = build(RMOE)
    with torch.no_grad(), watch_routers(model) as seen:
        model(TOKENS)
        _, logits = seen[-1]
        probs, routing_map = model.decoder.layers[-1].mlp.router.routing(logits)
    softmax = logits.flatten(0, 1).softmax(-1)
    top = softmax.topk(2, dim=-1)
    expected = torch.zeros_like(softmax).scatter(1, top.indices, top.values / top.values.sum(-1, keepdim=True))
    torch.testing.assert_close(probs, expected)
    assert torch.equal(routing_map, expected > 0)


def test_identity_cell_is_the_linear_router_with_the_product_of_the_two_matrices(build, watch_routers):
    recurrent = build({**RMOE, "cell": "identity"})
    linear_model = build({"name": "topk"})
    own = dict(linear_model.named_parameters())
    with torch.no_grad():
        for name, parameter in recurrent.named_parameters():
            if ".router." not in name:
                own[name].copy_(parameter)
        for ours, theirs in zip(linear_model.decoder.layers, recurrent.decoder.layers, strict=True):
            ours.mlp.router.weight.copy_(theirs.mlp.router.gate @ theirs.mlp.router.projector)
        torch.testing.assert_close(linear_model(TOKENS), recurrent(TOKENS), rtol=0, atol=4e-6)


def test_the_first_layer_routes_as_without_passing_and_later_layers_do_not(build, watch_routers):
    logits = []
    for pass_state in (True, False):
        model = build({**RMOE, "pass_state": pass_state})
        with torch.no_grad(), watch_routers(model) as seen:
            model(TOKENS)
        logits.append([each for _, each in seen])
    passing, separate = logits
    assert torch.equal(passing[0], separate[0])
    assert (passing[1] - separate[1]).abs().max() > 1e-3


def test_gradient_reaches_earlier_projectors_only_through_the_recurrence(build, watch_routers):
    for pass_state in (True, False):
        model = build({**RMOE, "pass_state": pass_state})
        with watch_routers(model) as seen:
            # Cut the way through attention and experts: what is left is the recurrence.
            for layer in model.decoder.layers:
                layer.pre_mlp_layernorm.register_forward_hook(lambda _module, _inputs, output: output.detach())
            model(TOKENS)
        last_logits = seen[-1][1]
        projectors = [layer.mlp.router.projector for layer in model.decoder.layers]
        gradients = torch.autograd.grad(last_logits.square().sum(), projectors, allow_unused=True)
        reached = [gradient is not None and bool(gradient.abs().max() > 0) for gradient in gradients]
        assert reached == ([True, True, True] if pass_state else [False, False, True])


def test_a_token_state_never_depends_on_other_tokens(build):
    recurrence = build(RMOE).router_recurrence
    tokens = torch.randn(3, 10, 6, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))

    def states(layers):
        return [recurrence.step(number, 3, layer) for number, layer in enumerate(layers, start=1)]

    with torch.no_grad():
        whole, permuted, alone = states(tokens), states(tokens[:, order]), states(tokens[:, 4:5])
    for each, shuffled, single in zip(whole, permuted, alone, strict=True):
        torch.testing.assert_close(shuffled, each[order], rtol=0, atol=1e-7)
        torch.testing.assert_close(single, each[4:5], rtol=0, atol=1e-7)


def test_the_batch_does_not_change_a_sequence(build):
    model = build(RMOE)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS)[1:], model(TOKENS[1:]), rtol=0, atol=1e-5)


def test_the_state_of_one_pass_does_not_leak_into_the_next(build):
    model = build(RMOE)
    with torch.no_grad():
        first = model(TOKENS)
        model(TOKENS.flip(0))
        assert torch.equal(model(TOKENS), first)
    assert model.router_recurrence._state_TP is None


def test_a_layer_out_of_order_is_an_error(build):
    recurrence = build(RMOE).router_recurrence
    tokens = torch.zeros(4, 6)
    recurrence.step(1, 3, tokens)
    with pytest.raises(RuntimeError, match="once and in order"):
        recurrence.step(3, 3, tokens)


def test_the_cell_is_one_for_all_layers_and_parameters_are_those_of_the_formula(build, tiny):
    recurrent, base = build(RMOE), build({"name": "topk"})
    cells = [name for name, _ in recurrent.named_parameters() if "cell" in name]
    assert len(cells) == 4
    extra = sum(p.numel() for p in recurrent.parameters()) - sum(p.numel() for p in base.parameters())
    layers, h, p, n = 3, 16, 6, 4
    assert extra == layers * (h * p + p * n - h * n) + 6 * p * p + 6 * p
    assert load_method("moe", RMOE).num_extra_parameters(*tiny) == extra


@pytest.mark.parametrize(
    ("layers", "hidden", "millions"),
    [(24, 1280, 3.59), (8, 352, 0.476 - 8 * 352 * 16 / 1e6)],
)
def test_overhead_is_that_of_the_papers_models(layers, hidden, millions):
    model = ModelSpec(
        num_layers=layers,
        hidden_size=hidden,
        ffn_hidden_size=448,
        num_attention_heads=8,
        num_query_groups=8,
        seq_length=16,
    )
    experts = ExpertSpec(num_moe_experts=16, moe_router_topk=4, moe_ffn_hidden_size=448)
    method = load_method("moe", {"name": "rmoe"})
    assert method.recurrent_size == 128
    assert method.num_extra_parameters(model, experts) / 1e6 == pytest.approx(millions, abs=0.01)
    per_layer = method.extra_flops_per_token(model, experts) / layers
    assert per_layer == 2 * (hidden * 128 + 6 * 128 * 128 + 128 * 16 - hidden * 16)


def test_the_cell_starts_as_torch_initialises_it(build):
    cell = build(RMOE).router_recurrence.cell
    bound = 1 / 6**0.5
    for parameter in cell.parameters():
        assert parameter.abs().max() <= bound
    assert cell.weight_ih.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
    assert not torch.equal(cell.weight_ih, cell.weight_hh)


def test_two_seeds_give_two_routers_and_one_seed_one(build):
    first, again, other = build(RMOE), build(RMOE), build(RMOE, seed=1)
    assert torch.equal(first.router_recurrence.cell.weight_ih, again.router_recurrence.cell.weight_ih)
    assert not torch.equal(first.router_recurrence.cell.weight_ih, other.router_recurrence.cell.weight_ih)


def test_logits_are_float32_and_unchanged_under_bfloat16_autocast(build):
    model = build(RMOE)
    router = model.decoder.layers[0].mlp.router
    hidden = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = router.gating(hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = router.gating(hidden)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
