import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.errors import RetraceError

sys.path.insert(0, str(Path(__file__).parent))
import reference

VOCAB = 50
MODEL = ModelSpec(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=12
)
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True, "num_query_groups": 4})
ONE_GROUP = MODEL.model_copy(update={"num_query_groups": 1})
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=24)

pytestmark = pytest.mark.usefixtures("one_process")


def tokens():
    return torch.randint(0, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))


def build(spec, experts=None, **options):
    from pipelines.megatron.model import build_model

    # Large weights, so that attention and gates are far from uniform and an error shows.
    return build_model(spec.model_copy(update={"init_method_std": 0.3}), VOCAB, experts, seed=3, **options)


def named(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("spec", [MODEL, UNTIED, ONE_GROUP], ids=["grouped", "untied", "one_group"])
@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "experts"])
def test_logits_equal_the_definition_in_plain_torch(spec, experts):
    model = build(spec, experts)
    expected = reference.logits(named(model), spec, tokens(), experts)
    torch.testing.assert_close(model(tokens()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "experts"])
def test_gradients_equal_those_of_the_definition(experts):
    experts = experts and experts.model_copy(update={"moe_aux_loss_coeff": 0.0})
    model = build(MODEL, experts)
    weights = {name: value.clone().requires_grad_() for name, value in named(model).items()}
    labels = tokens().roll(-1, dims=1)
    expected = functional.cross_entropy(
        reference.logits(weights, MODEL, tokens(), experts).flatten(0, 1), labels.flatten(), reduction="sum"
    )
    expected.backward()
    loss = model(tokens(), labels=labels)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-3, atol=2e-4, msg=name)


def test_under_bfloat16_autocast_the_loss_is_float32_and_near():
    model = build(MODEL)
    labels = tokens().roll(-1, dims=1)
    exact = model(tokens(), labels=labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(tokens(), labels=labels)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.03, atol=0.0)
    assert not torch.equal(rough, exact)


def test_the_loss_skips_ignored_labels():
    from pipelines.megatron.data import IGNORED

    model = build(MODEL)
    labels = tokens().roll(-1, dims=1)
    partial = labels.clone()
    partial[:, 5:] = IGNORED
    expected = functional.cross_entropy(model(tokens()).flatten(0, 1), partial.flatten(), reduction="sum")
    torch.testing.assert_close(model(tokens(), labels=partial), expected, rtol=1e-5, atol=1e-5)


def test_with_one_expert_chosen_its_gate_has_a_gradient():
    model = build(MODEL, EXPERTS.model_copy(update={"moe_router_topk": 1, "moe_aux_loss_coeff": 0.0}))
    model(tokens(), labels=tokens()).backward()
    assert all(layer.mlp.router.weight.grad.abs().sum() > 0 for layer in model.decoder.layers)


def test_every_parameter_starts_from_the_seed_and_its_name():
    first, again, other = named(build(MODEL)), named(build(MODEL)), None
    from pipelines.megatron.model import build_model

    other = named(build_model(MODEL.model_copy(update={"init_method_std": 0.3}), VOCAB, seed=4))
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert name.endswith("norm.weight") or not torch.equal(value, other[name])
    layers = [first[f"decoder.layers.{i}.mlp.linear_fc1.weight"] for i in (0, 1)]
    assert not torch.equal(*layers)
    assert layers[0].std().item() == pytest.approx(0.3, rel=0.1)
    # Writers to the residual stream start smaller, by sqrt(2 layers).
    assert first["decoder.layers.0.mlp.linear_fc2.weight"].std().item() == pytest.approx(0.3 / 2, rel=0.1)


def test_a_method_may_share_a_module_and_choose_its_initial_weights():
    from pipelines.megatron.router import BaseRouter

    built = []

    class Router(BaseRouter):
        def gating(self, input):
            built.append(self.layer_number)
            return super().gating(input)

    def prepare(model):
        model.shared = torch.nn.Linear(2, 2, bias=False)
        model.shared.weight.initialise = lambda tensor, generator: tensor.fill_(7.0)

    model = build(MODEL, EXPERTS, router_builder=Router, prepare=prepare)
    model(tokens())
    assert built == [1, 2]
    assert model.shared.weight.detach().unique().tolist() == [7.0]


def test_initial_weights_replace_the_random_ones_and_misfits_are_named():
    weights = {name: torch.full_like(value, 0.01) for name, value in named(build(MODEL)).items()}
    assert all(torch.equal(value, weights[name]) for name, value in named(build(MODEL, initial=weights)).items())
    missing = weights.pop("decoder.final_layernorm.weight")
    with pytest.raises(RetraceError, match=r"lack decoder\.final_layernorm\.weight"):
        build(MODEL, initial=weights)
    with pytest.raises(RetraceError, match=r"\[33\].*\[32\]"):
        build(MODEL, initial={**weights, "decoder.final_layernorm.weight": torch.cat([missing, missing[:1]])})
