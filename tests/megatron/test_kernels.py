import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from pipelines.megatron import attention_kernel, kernels, layers, products
from pipelines.megatron.attention_kernel import CausalAttention
from pipelines.megatron.kernels import IGNORED, HeadLoss, RmsNormalize, SwigluFeedForward, token_losses
from pipelines.megatron.spec import ModelSpec

sys.path.insert(0, str(Path(__file__).parent))
import reference


def random(*shape, dtype=torch.float64, scale=1.0):
    seed = sum(n * 31**i for i, n in enumerate(shape))
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale).requires_grad_()


def attention_inputs(s, b, groups, r, d, dtype=torch.float64):
    h = groups * r * d
    weights = random(groups * (r + 2) * d, h, dtype=dtype, scale=0.5), random(h, h, dtype=dtype, scale=0.5)
    exponents = torch.arange(0, d, 2, dtype=torch.float64) / d
    angles = torch.outer(torch.arange(s, dtype=torch.float64), 100.0**-exponents)
    return random(s, b, h, dtype=dtype), *weights, angles.cos().to(dtype), angles.sin().to(dtype), groups, dtype


def loss_inputs(tokens=7, hidden=4, vocab=9, dtype=torch.float64):
    labels = torch.arange(tokens) % vocab
    labels[2] = IGNORED
    return random(tokens, hidden, dtype=dtype), random(vocab, hidden, dtype=dtype), labels, dtype


def test_rms_norm_equals_its_formula_and_gradient():
    x, weight = random(3, 2, 8), random(8)
    torch.testing.assert_close(RmsNormalize.apply(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    assert gradcheck(RmsNormalize.apply, (x, weight, 1e-5))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_feed_forward_equals_its_formula_and_gradient(scaled):
    x, fc1, fc2 = random(5, 4), random(12, 4), random(4, 6)
    scale = random(5) if scaled else None
    expected = reference.swiglu(x, fc1, fc2) * (scale[:, None] if scaled else 1)
    torch.testing.assert_close(SwigluFeedForward.apply(x, fc1, fc2, scale, torch.float64), expected)
    assert gradcheck(SwigluFeedForward.apply, (x, fc1, fc2, scale, torch.float64))


def test_feed_forward_of_no_tokens_gives_zero_gradients():
    fc1, fc2 = random(12, 4), random(4, 6)
    SwigluFeedForward.apply(torch.zeros(0, 4, dtype=torch.float64), fc1, fc2, None, torch.float64).sum().backward()
    assert fc1.grad.abs().sum() == fc2.grad.abs().sum() == 0


@pytest.mark.parametrize("chunk", [9, 27, 10**6], ids=["a_row", "rows", "all"])
def test_head_loss_equals_cross_entropy_and_its_gradient_in_any_chunks(monkeypatch, chunk):
    monkeypatch.setattr(kernels, "CHUNK_ELEMENTS", chunk)
    hidden, weight, labels, dtype = loss_inputs()
    expected = functional.cross_entropy(hidden @ weight.T, labels, reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(HeadLoss.apply(hidden, weight, labels, dtype), expected)
    assert gradcheck(lambda h, w: HeadLoss.apply(h, w, labels, dtype) * 0.3, (hidden, weight))
    each = functional.cross_entropy(hidden @ weight.T, labels, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(token_losses(hidden, weight, labels, dtype), each)


def test_head_loss_of_an_improbable_label_does_not_underflow():
    hidden, weight = torch.tensor([[400.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    loss = HeadLoss.apply(hidden, weight, torch.tensor([2]), torch.float32)
    assert loss.item() == 800.0


@pytest.mark.parametrize(("groups", "r"), [(2, 1), (1, 3)], ids=["plain", "grouped"])
def test_attention_gradient_in_float64(monkeypatch, groups, r):
    monkeypatch.setattr(attention_kernel, "BLOCK", 2)
    assert gradcheck(CausalAttention.apply, attention_inputs(5, 2, groups, r, 4))


def test_rotary_tables_are_the_angles_cosines_and_sines():
    cos, sin = layers.rotary_tables(7, 4, 100.0, torch.device("cpu"))
    angles = torch.arange(7)[:, None] * torch.tensor([1.0, 0.1])
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())


@pytest.mark.parametrize(("groups", "r"), [(4, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("s", [1, 64, 150])
def test_attention_equals_its_definition_over_several_blocks(groups, r, s):
    x, qkv, proj, *rest = attention_inputs(s, 2, groups, r, 8)
    spec = ModelSpec(
        num_layers=1,
        hidden_size=32,
        ffn_hidden_size=1,
        num_attention_heads=4,
        num_query_groups=groups,
        seq_length=s + 1,
        rotary_base=100,
    )
    expected = reference.attention(x.transpose(0, 1), qkv, proj, spec).transpose(0, 1)
    torch.testing.assert_close(CausalAttention.apply(x, qkv, proj, *rest), expected, rtol=1e-5, atol=1e-5)


def test_attention_of_long_sequences_takes_torchs_kernel_to_the_same_result(one_process, monkeypatch):
    from pipelines.megatron.model import build_model

    spec = ModelSpec(
        num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=12
    )
    tokens = torch.randint(0, 30, (3, 12), generator=torch.Generator().manual_seed(0))
    results = []
    for short in (12, 11):
        monkeypatch.setattr(layers, "SHORT", short)
        model = build_model(spec.model_copy(update={"init_method_std": 0.3}), 30)
        loss = model(tokens, labels=tokens.roll(-1, 1))
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_bfloat16_operations_are_near_the_float32_ones():
    x, qkv, proj, cos, sin, groups, _ = attention_inputs(70, 2, 2, 2, 8, torch.float32)
    fc1, fc2 = random(48, 32, dtype=torch.float32, scale=0.3), random(32, 24, dtype=torch.float32, scale=0.3)
    hidden, weight, labels, _ = loss_inputs(64, 16, 50, torch.float32)
    cases = [
        (lambda kind, a, b, c: CausalAttention.apply(a, b, c, cos, sin, groups, kind), (x, qkv, proj)),
        (lambda kind, a, b, c: SwigluFeedForward.apply(a, b, c, None, kind), (x.detach().view(-1, 32), fc1, fc2)),
        (lambda kind, a, b: HeadLoss.apply(a, b, labels, kind), (hidden, weight)),
    ]
    for operation, inputs in cases:
        results = []
        for kind in (torch.float32, torch.bfloat16):
            leaves = [each.detach().clone().requires_grad_() for each in inputs]
            out = operation(kind, *leaves)
            out.float().square().sum().backward()
            results.append([out.float(), *(leaf.grad for leaf in leaves)])
        for exact, rough in zip(*results, strict=True):
            assert rough.dtype == torch.float32
            assert ((rough - exact).norm() / exact.norm()).item() < 0.03
            assert not torch.equal(rough, exact)


@pytest.mark.parametrize("shape", [(512, 96, 130), (512, 130, 96), (3, 4, 5)])
def test_products_equal_torchs_in_every_orientation(shape):
    tokens, wide, narrow = shape
    x, weight, grad = (
        random(*each, dtype=torch.float32).detach() for each in ((tokens, wide), (narrow, wide), (tokens, narrow))
    )
    for found, left, right in (
        (products.product(x, weight.t()), x, weight.t()),
        (products.product(grad, weight), grad, weight),
        (products.weight_gradient(grad, x), grad.t(), x),
    ):
        torch.testing.assert_close(found, (left.double() @ right.double()).float(), rtol=1e-5, atol=1e-4)


def test_large_float32_products_take_the_faster_library(monkeypatch):
    x = torch.ones(256, 128)
    assert products._onednn(x, torch.ones(128, 64)) == torch.backends.mkldnn.is_available()
    assert not products._onednn(x[:2], torch.ones(128, 64))
    assert not products._onednn(x.double(), torch.ones(128, 64).double())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not products._onednn(x, torch.ones(128, 64))


@pytest.mark.parametrize("count", [0, 100, 128, 200])
def test_filling_an_experts_tokens_up_changes_neither_output_nor_gradients(count):
    results = []
    for operation in (layers._in_round_numbers, lambda x, s, a, b: layers.feed_forward(x, a, b, s)):
        leaves = random(count, 8), random(count), random(12, 8), random(8, 6)
        leaves = [each.detach().clone().requires_grad_() for each in leaves]
        out = operation(*leaves)
        out.square().sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    assert len(results[0][0]) == count
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
