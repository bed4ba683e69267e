import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.megatron.flops import (
    count_active_parameters,
    count_parameters,
    forward_flops_per_token,
    training_flops_per_token,
)
from pipelines.megatron.spec import ExpertSpec, ModelSpec

VOCAB = 64
MODEL = ModelSpec(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True, "num_query_groups": 4})
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=24)

pytestmark = pytest.mark.usefixtures("one_process")


def build(spec, experts):
    from pipelines.megatron.model import build_model

    return build_model(spec, VOCAB, experts)


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("spec", [MODEL, UNTIED], ids=["grouped", "untied"])
def test_forward_flops_equal_what_torch_counts(spec, experts):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = build(spec, experts)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(torch.zeros(2, 16, dtype=torch.long))
    assert forward_flops_per_token(spec, VOCAB, experts) * 2 * 16 == counter.get_total_flops()


def test_training_flops_equal_what_torch_counts_for_forward_and_backward():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = build(MODEL, None)
    tokens = torch.zeros(2, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens, labels=tokens).backward()
    assert training_flops_per_token(MODEL, VOCAB) * 2 * 16 == counter.get_total_flops()


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("spec", [MODEL, UNTIED], ids=["grouped", "untied"])
def test_the_parameter_count_is_the_models(spec, experts):
    assert count_parameters(spec, VOCAB, experts) == sum(p.numel() for p in build(spec, experts).parameters())


def test_active_parameters_leave_out_the_experts_a_token_does_not_visit():
    idle = MODEL.num_layers * (4 - 2) * 3 * 32 * 24
    assert count_active_parameters(MODEL, VOCAB, EXPERTS) == count_parameters(MODEL, VOCAB, EXPERTS) - idle
    assert count_active_parameters(MODEL, VOCAB) == count_parameters(MODEL, VOCAB)


@pytest.mark.parametrize("spec", [MODEL, UNTIED], ids=["grouped", "untied"])
@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["llama", "mixtral"])
def test_flops_equal_what_torch_counts_of_the_hugging_face_model(spec, experts):
    import transformers

    shape = {
        "vocab_size": VOCAB,
        "num_hidden_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": experts.moe_ffn_hidden_size if experts else spec.ffn_hidden_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_query_groups,
        "tie_word_embeddings": not spec.untie_embeddings_and_output_weights,
        "attn_implementation": "eager",
    }
    if experts is None:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    else:
        routed = {"num_local_experts": experts.num_moe_experts, "num_experts_per_tok": experts.moe_router_topk}
        config = transformers.MixtralConfig(**shape, **routed, sliding_window=None)
        config._experts_implementation = "eager"
        model = transformers.MixtralForCausalLM(config)
    tokens = torch.randint(0, VOCAB, (2, 16), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    assert forward_flops_per_token(spec, VOCAB, experts) * 2 * 16 == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens).loss.backward()
    assert training_flops_per_token(spec, VOCAB, experts) * 2 * 16 == counter.get_total_flops()
