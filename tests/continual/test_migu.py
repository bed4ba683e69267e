"""The paper's rule on plain layers, against naive versions, and what each policy lets through."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from pipelines.continual.masked_update import MaskedUpdate
from pipelines.continual.methods.migu import Migu
from pipelines.continual.protocol import TokenMasks
from pipelines.continual.row_masks import rank_mask
from pipelines.runs.errors import RetraceError

ALWAYS = {"mask_first_task": True}


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10, bias=True), nn.Tanh(), nn.Linear(10, 10, bias=False))


def run_steps(method: Migu, make_optimizer, num_steps: int = 6):
    """Train with fresh random inputs every step; yields (strategy, model, weights before) after each step."""
    model = two_layers()
    optimizer = make_optimizer(model.parameters())
    strategy = MaskedUpdate(method, model, set(), seed=0)
    strategy.begin_task(0, optimizer)
    for step in range(num_steps):
        torch.manual_seed(100 + step)
        before = [source.weight.detach().clone() for source in strategy.recorder.sources]
        optimizer.zero_grad()
        strategy.before_forward(TokenMasks(torch.ones(4, 3)))
        output = model(torch.randn(4, 3, 6))
        strategy.after_forward()
        output.square().sum().backward()
        strategy.after_backward()
        strategy.before_step()
        optimizer.step()
        strategy.after_step()
        yield strategy, model, before, optimizer


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01)


def adamw(parameters, weight_decay=0.0):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=weight_decay)


OPTIMIZERS = {
    "sgd": sgd,
    "sgd_weight_decay": lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adamw": adamw,
    "adamw_weight_decay": lambda p: adamw(p, 0.01),
}


def test_one_step_equals_the_naive_equation():
    """W <- W - eta M grad W with M over whole rows, on a layer of its own."""
    threshold, lr = 0.7, 0.01
    strategy, _, _before, _ = next(iter(run_steps(Migu(**ALWAYS), sgd)))
    model = two_layers()
    torch.manual_seed(100)
    inputs = torch.randn(4, 3, 6)
    model(inputs).square().sum().backward()
    hidden = linear(inputs, model[0].weight, model[0].bias)
    for layer, output, source in zip(
        (model[0], model[2]), (hidden, model(inputs)), strategy.recorder.sources, strict=True
    ):
        n = [sum(abs(output[b, s, row].item()) for b in range(4) for s in range(3)) for row in range(10)]
        kept = sorted(range(10), key=lambda row: n[row])[int(threshold * 10) :]
        expected = layer.weight.detach().clone()
        for row in kept:
            expected[row] -= lr * layer.weight.grad[row]
        torch.testing.assert_close(source.weight.detach(), expected, rtol=1e-6, atol=1e-8)
        assert len(kept) == 3


def leaked_share(method: Migu, optimizer: str) -> float:
    """Share of masked rows whose weights changed, counted here and compared with the method's own metric."""
    masked = moved = 0
    for strategy, _, before, _ in run_steps(method, OPTIMIZERS[optimizer]):
        for source, mask, old in zip(strategy.recorder.sources, strategy.masks, before, strict=True):
            changed = (source.weight.detach() != old).any(dim=-1)
            masked += int((~mask).sum())
            moved += int((changed & ~mask).sum())
            assert changed[mask].all()
    assert strategy.metrics() == {"masked_rows_leaked_share": moved / masked}
    return moved / masked


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [
        ("sgd", 0.0, 0.0),
        ("sgd_weight_decay", 1.0, 1.0),
        ("sgd_momentum", 0.05, 0.95),
        ("adamw", 0.05, 0.95),
        ("adamw_weight_decay", 1.0, 1.0),
    ],
)
def test_masking_gradients_freezes_rows_under_plain_sgd_only(optimizer, low, high):
    assert low <= leaked_share(Migu(policy="mask_grad", **ALWAYS), optimizer) <= high


@pytest.mark.parametrize("moments", ["frozen", "decayed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_restoring_keeps_masked_rows_bit_identical_under_every_optimiser(optimizer, moments):
    assert leaked_share(Migu(policy="restore", moments=moments, **ALWAYS), optimizer) == 0.0


def test_moments_of_restored_rows_are_frozen_or_decayed_as_asked():
    for moments in ("frozen", "decayed"):
        previous = None
        for strategy, _, _, optimizer in run_steps(Migu(policy="restore", moments=moments, **ALWAYS), adamw):
            source, mask = strategy.recorder.sources[0], strategy.masks[0]
            moment = optimizer.state[source.weight]["exp_avg"].clone()
            if previous is not None:
                expected = previous if moments == "frozen" else 0.9 * previous
                torch.testing.assert_close(moment[~mask], expected[~mask], rtol=1e-6, atol=0)
                assert not torch.allclose(moment[mask], previous[mask])
            previous = moment


def test_scaling_the_input_of_a_layer_leaves_its_mask_unchanged():
    layer = nn.Linear(6, 10, bias=False)
    masks = []
    for scale in (1.0, 16.0):
        strategy = MaskedUpdate(Migu(**ALWAYS), nn.Sequential(layer), set(), seed=0)
        strategy.begin_task(0, sgd(layer.parameters()))
        strategy.before_forward(TokenMasks(torch.ones(2, 5)))
        layer(scale * torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)))
        strategy.after_backward()
        masks.append(strategy.masks[0])
        strategy.detach()
    assert torch.equal(masks[0], masks[1])


def magnitudes(batches, masks=None, **changes):
    """Recorded magnitudes of one layer after several micro-batches."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 10)
    strategy = MaskedUpdate(Migu(**ALWAYS, **changes), nn.Sequential(layer), set(), seed=0)
    strategy.begin_task(0, sgd(layer.parameters()))
    for place, batch in enumerate(batches):
        strategy.before_forward(TokenMasks(torch.ones(batch.shape[:2]) if masks is None else masks[place]))
        layer(batch)
        strategy.after_forward()
    return strategy.recorder.sources[0].magnitudes


def test_micro_batches_add_up_to_the_magnitudes_of_the_joined_batch():
    batch = torch.randn(6, 5, 6, generator=torch.Generator().manual_seed(2))
    joined, split = magnitudes([batch]), magnitudes([batch[:2], batch[2:]])
    torch.testing.assert_close(joined, split)
    assert torch.equal(rank_mask(joined, 0.7), rank_mask(split, 0.7))


def test_padding_changes_the_mask_only_where_it_is_counted():
    batch = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))
    padded = torch.cat([batch, torch.full((3, 40, 6), -4.0)], dim=1)
    tokens = torch.cat([torch.ones(3, 5), torch.zeros(3, 40)], dim=1)
    torch.testing.assert_close(magnitudes([batch]), magnitudes([padded], [tokens]))
    counted = magnitudes([padded], [tokens], count_padding=True)
    assert not torch.equal(rank_mask(counted, 0.7), rank_mask(magnitudes([batch]), 0.7))


def test_normalising_each_token_is_another_ranking_than_normalising_the_layer():
    small, large = torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(4)).chunk(2, dim=1)
    batch = torch.cat([small, 100 * large], dim=1)
    by_layer, by_token = magnitudes([batch]), magnitudes([batch], normalise="token")
    assert by_token.sum().item() == pytest.approx(8.0, rel=1e-5)
    assert not torch.equal(by_layer.argsort(), by_token.argsort())


def test_a_pass_outside_training_is_not_recorded():
    strategy = MaskedUpdate(Migu(**ALWAYS), layer := nn.Sequential(nn.Linear(6, 10)), set(), seed=0)
    layer(torch.randn(2, 3, 6))
    assert not strategy.recorder.sources[0].magnitudes.any()


def test_clipping_before_masking_leaves_kept_rows_a_smaller_gradient():
    norms = {}
    for order in ("after_mask", "before_mask"):
        model = two_layers()
        strategy = MaskedUpdate(Migu(clip_order=order, **ALWAYS), model, set(), seed=0)
        strategy.begin_task(0, sgd(model.parameters()))
        strategy.before_forward(TokenMasks(torch.ones(4, 3)))
        model(torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        strategy.after_backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        strategy.before_step()
        norms[order] = sum(each.grad.square().sum().item() for each in model.parameters()) ** 0.5
        assert all(not s.weight.grad[~m].any() for s, m in zip(strategy.recorder.sources, strategy.masks, strict=True))
    assert norms["after_mask"] == pytest.approx(1.0, abs=1e-4)
    assert norms["before_mask"] < 0.99


@pytest.mark.parametrize("threshold", [1.0, 1.5, -0.1])
def test_thresholds_outside_zero_to_one_are_refused(threshold):
    with pytest.raises(RetraceError, match=r"migu\.threshold .* must be in \[0, 1\)"):
        Migu(threshold=threshold)


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(RetraceError, match="no trainable linear layers"):
        MaskedUpdate(Migu(), nn.Sequential(nn.Embedding(3, 4)), set(), seed=0)
