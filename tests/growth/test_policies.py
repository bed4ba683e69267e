"""Optimizer state, learning rate and data after growth, by policy."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipelines.growth.data_ledger import place_data
from pipelines.growth.optimizer_state import grown_moments
from pipelines.growth.protocol import grow_masked
from pipelines.growth.spec import GrowthSpec
from pipelines.growth.training import train
from pipelines.megatron.checkpoint import read_config, read_optimizer, read_tensors
from pipelines.megatron.spec import ModelSpec, TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import METRICS
from pipelines.runs.methods import list_methods, load_method, method_card

sys.path.insert(0, str(Path(__file__).parents[1] / "megatron"))

SEED, VOCAB_SIZE = 3, 32
MODEL = ModelSpec(
    num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, seq_length=12
)
DEEP = MODEL.model_copy(update={"num_layers": 4})
TRAINING = TrainingSpec(
    train_iters=12,
    global_batch_size=4,
    lr=5e-3,
    min_lr=5e-4,
    lr_warmup_iters=2,
    precision="fp32",
    log_interval=1,
)
STACK = {"name": "stack", "growth_factor": 2, "stacking_list": None}
SAME = {**STACK, "growth_factor": 1}


def spec(method, model=DEEP, training=TRAINING, **policies):
    return GrowthSpec(method=method, model=model, training=training, seed=SEED, **policies)


def trained(job, tokens, name, **changes):
    from pipelines.megatron.training import train as train_dense

    with job(name) as base:
        train_dense(MODEL, None, TRAINING.model_copy(update=changes), SEED, tokens, base)
    return base.out


@pytest.fixture
def base(job, tokens):
    return trained(job, tokens, "base", train_iters=7, save_optim=True)


@pytest.fixture
def grow(job, tokens):
    """Run ``growth train`` and give its folder, record and learning rates."""

    def grow(name, base, *args, **kwargs):
        with job(name) as made:
            train(spec(*args, **kwargs), {"tokens": tokens, **({"base": base} if base else {})}, made)
        lines = [json.loads(line) for line in (made.out / METRICS).read_text().splitlines()]
        return SimpleNamespace(out=made.out, facts=made.facts, rates=[line["lr"] for line in lines if "lr" in line])

    return grow


# Optimizer state


@pytest.mark.parametrize("policy", ["project", "copy", "zero_new"])
def test_growth_that_changes_nothing_goes_on_as_if_training_had_not_stopped(job, tokens, grow, policy):
    constant = TRAINING.model_copy(update={"lr_decay_style": "constant"})
    base = trained(job, tokens, "base", train_iters=7, save_optim=True, lr_decay_style="constant")
    whole = read_tensors(trained(job, tokens, "whole", lr_decay_style="constant"))
    grown = grow("grown", base, SAME, MODEL, constant, optimizer_policy=policy, schedule_policy="continue")
    assert grown.facts["train_iters"] == 5
    assert grown.facts["optimizer_step"] == 7
    ended = read_tensors(grown.out)
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    fresh = read_tensors(grow("fresh", base, SAME, MODEL, constant, schedule_policy="continue").out)
    assert any(not torch.equal(fresh[name], whole[name]) for name in whole)


def test_a_policy_without_optimizer_state_is_refused_and_nothing_is_written(job, tokens):
    bare = trained(job, tokens, "bare", train_iters=7)
    for policy in ("copy", "project", "zero_new"):
        with (
            job(policy) as refused,
            pytest.raises(RetraceError, match=r"--base has no optimizer state.*training\.save_optim: true.*fresh"),
        ):
            train(spec(STACK, optimizer_policy=policy), {"tokens": tokens, "base": bare}, refused)
        assert list(refused.out.iterdir()) == []


def moments_of(base):
    step, stored = read_optimizer(base, "base")
    assert step == 7
    kinds = ("exp_avg", "exp_avg_sq")
    return {kind: {n.removeprefix(f"{kind}/"): stored[n] for n in stored if n.startswith(f"{kind}/")} for kind in kinds}


@pytest.mark.parametrize("policy", ["project", "copy", "zero_new"])
def test_stacked_moments_are_each_layers_own_and_zero_in_new_layers_where_asked(base, policy):
    before = moments_of(base)
    after = grown_moments(policy, load_method("growth", STACK), MODEL, before, 0)
    for kind, tensors in before.items():
        assert tensors.keys() == dict(read_tensors(base)).keys()
        assert any(tensor.any() for tensor in tensors.values())
        for name, tensor in tensors.items():
            assert torch.equal(after[kind][name], tensor)
            if name.startswith("decoder.layers."):
                _, _, layer, rest = name.split(".", 3)
                copy = after[kind][f"decoder.layers.{int(layer) + 2}.{rest}"]
                assert torch.equal(copy, torch.zeros_like(tensor) if policy == "zero_new" else tensor)


class TwinUnits:
    """Every feed-forward unit twice, each with a share of what it adds: exact, with known factors."""

    share = (0.25, 0.75)

    def target(self, base):
        return base.model_copy(update={"ffn_hidden_size": 2 * base.ffn_hidden_size})

    def _map(self, tensors, incoming, outgoing):
        for name, tensor in tensors.items():
            if name.endswith("linear_fc1.weight"):
                yield name, torch.cat([c * half for half in tensor.chunk(2) for c in incoming])
            elif name.endswith("linear_fc2.weight"):
                yield name, torch.cat([c * tensor for c in outgoing], 1)
            else:
                yield name, tensor.clone()

    def grow(self, base, tensors, seed):
        return self._map(tensors, (1, 1), self.share)

    def grow_moments(self, base, tensors, power, seed):
        return self._map(tensors, [c**power for c in self.share], (1, 1))


def gathered(tensors, model, batches):
    """AdamW's moments over batches at weights that stay where they are."""
    from reference import logits

    weights = {name: tensor.detach().double().clone().requires_grad_() for name, tensor in tensors.items()}
    adam = torch.optim.AdamW(weights.values(), lr=0.0, betas=(0.9, 0.95))
    for batch in batches:
        adam.zero_grad()
        scores = logits(weights, model, batch[:, :-1])
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten()).backward()
        adam.step()
    return {kind: {name: adam.state[w][kind] for name, w in weights.items()} for kind in ("exp_avg", "exp_avg_sq")}


def exact_methods():
    """Methods that preserve the function of the test's base, as they are and where asked to change nothing."""
    found = [TwinUnits(), load_method("growth", SAME)]
    for name in list_methods("growth"):
        if method_card("growth", name).axis != "none":
            method = load_method("growth", name)
            if hasattr(method, "symmetry_break"):
                # Copies that are read unevenly get gradients that the base's do not determine.
                method = replace(method, symmetry_break=0.0)
            if method.preserves(MODEL).preserved:
                found.append(method)
    return found


@pytest.mark.parametrize("method", exact_methods(), ids=lambda method: type(method).__name__)
def test_projected_moments_are_those_the_grown_model_would_have_gathered(base, method):
    tensors = {name: tensor.double() for name, tensor in read_tensors(base).items()}
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, VOCAB_SIZE, (2, 9), generator=generator) for _ in range(3)]
    before = gathered(tensors, MODEL, batches)
    grown = dict(grow_masked(method, MODEL, tensors, 0))
    real = gathered(grown, method.target(MODEL), batches)
    projected = grown_moments("project", method, MODEL, before, 0)
    ones = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    told = dict(method.grow_moments(MODEL, ones, 2, 0))
    for kind, expected in real.items():
        assert projected[kind].keys() == expected.keys()
        for name, tensor in expected.items():
            known = told[name] > 0
            scale = tensor.abs().max().item()
            torch.testing.assert_close(projected[kind][name][known], tensor[known], rtol=1e-6, atol=1e-9 * scale)
            assert not projected[kind][name][~known].any()


def test_copied_moments_are_unscaled_and_the_first_twin_is_the_old_unit(base):
    before = moments_of(base)
    copied = grown_moments("copy", TwinUnits(), MODEL, before, 0)
    zeroed = grown_moments("zero_new", TwinUnits(), MODEL, before, 0)
    fc1, fc2 = (f"decoder.layers.1.mlp.linear_fc{i}.weight" for i in (1, 2))
    for kind in before:
        gate, up = before[kind][fc1].chunk(2)
        torch.testing.assert_close(copied[kind][fc1], torch.cat([gate, gate, up, up]))
        torch.testing.assert_close(copied[kind][fc2], torch.cat([before[kind][fc2]] * 2, 1))
        zero = torch.zeros_like(gate)
        torch.testing.assert_close(zeroed[kind][fc1], torch.cat([gate, zero, up, zero]))
        torch.testing.assert_close(zeroed[kind][fc2], torch.cat([before[kind][fc2], zero.T], 1))


def test_zero_new_is_refused_where_units_are_mixed(base):
    class Mixing(TwinUnits):
        def grow_moments(self, base, tensors, power, seed):
            return ((name, (tensor + tensor.flip(0)) / 2) for name, tensor in tensors.items())

    with pytest.raises(RetraceError, match=r"zero_new.*mixes units of the base.*choose project, copy or fresh"):
        grown_moments("zero_new", Mixing(), MODEL, moments_of(base), 0)


# Learning rate


def scratch_rate(step, train_iters=12):
    import math

    if step <= TRAINING.lr_warmup_iters:
        return TRAINING.lr * step / TRAINING.lr_warmup_iters
    done = (step - TRAINING.lr_warmup_iters) / (train_iters - TRAINING.lr_warmup_iters)
    return TRAINING.min_lr + (TRAINING.lr - TRAINING.min_lr) / 2 * (1 + math.cos(math.pi * done))


def test_each_schedule_policy_gives_the_learning_rate_of_its_formula(base, grow):
    restart = grow("restart", base, STACK)
    left = restart.facts["train_iters"]
    over = 12 - left
    assert over > TRAINING.lr_warmup_iters
    assert restart.rates == pytest.approx([scratch_rate(k, left) for k in range(1, left + 1)])
    go_on = [scratch_rate(over + k) for k in range(1, left + 1)]
    assert grow("continue", base, STACK, schedule_policy="continue").rates == pytest.approx(go_on)
    rewarmed = [go_on[0] / 2, *go_on[1:]]
    assert grow("rewarm", base, STACK, schedule_policy="rewarm").rates == pytest.approx(rewarmed)


def test_growth_in_the_stable_phase_goes_on_at_its_rate_and_decays_at_the_end(job, tokens, base, grow):
    training = TRAINING.model_copy(update={"lr_decay_style": "WSD", "lr_wsd_decay_iters": 3})
    stable = trained(job, tokens, "stable", train_iters=7, lr_decay_style="constant")
    grown = grow("grown", stable, STACK, training=training, schedule_policy="WSD")
    span = TRAINING.lr - TRAINING.min_lr
    down = [TRAINING.min_lr + span * share for share in (2 / 3, 1 / 3, 0)]
    assert grown.rates == pytest.approx([TRAINING.lr] * (grown.facts["train_iters"] - 3) + down)
    for start, schedule, message in (
        (base, training, r"--base ended at learning rate 0\.0005 and training\.lr is 0\.005.*constant"),
        (stable, TRAINING, r"needs training\.lr_decay_style WSD, not cosine"),
    ):
        with job("refused" + schedule.lr_decay_style) as refused, pytest.raises(RetraceError, match=message):
            train(spec(STACK, training=schedule, schedule_policy="WSD"), {"tokens": tokens, "base": start}, refused)
        assert list(refused.out.iterdir()) == []


def test_the_control_restarts_where_a_grown_model_begins_and_costs_what_scratch_costs(base, grow):
    control = grow("control", base, {"name": "scratch_restart"})
    left = control.facts["train_iters"]
    over = control.facts["restart_after"]
    assert (over, left) == (12 - left, grow("grown", base, STACK).facts["train_iters"])
    parts = [(over, k) for k in range(1, over + 1)] + [(left, k) for k in range(1, left + 1)]
    assert control.rates == pytest.approx([scratch_rate(k, n) for n, k in parts])
    assert read_config(control.out)["flops_spent"] == control.facts["flops_budget"]
    assert read_config(control.out)["next_sequence"] == 12 * 4


def test_the_controls_optimizer_starts_anew_at_the_restart(base, grow, job, tokens):
    training = TRAINING.model_copy(update={"lr_decay_style": "constant", "save_optim": True})
    control = grow("control", base, {"name": "scratch_restart"}, training=training)
    assert read_optimizer(control.out, "base")[0] == control.facts["train_iters"]
    scratch = grow("scratch", None, {"name": "scratch"}, training=training)
    assert read_optimizer(scratch.out, "base")[0] == 12
    with job("refused") as refused, pytest.raises(RetraceError, match="control of optimizer_policy fresh"):
        train(spec({"name": "scratch_restart"}, schedule_policy="continue"), {"tokens": tokens, "base": base}, refused)


# Loss at growth


def test_the_loss_at_growth_is_the_bases_where_the_function_is_preserved_and_higher_where_it_is_not(job, tokens):
    followed = TRAINING.model_copy(update={"eval_interval": 3, "interim_eval_tokens": 200})
    with job("base") as base:
        from pipelines.megatron.training import train as train_dense

        train_dense(MODEL, None, followed.model_copy(update={"train_iters": 40}), SEED, tokens, base)
    before = [json.loads(line) for line in (base.out / METRICS).read_text().splitlines()]
    before = [line["interim_val_loss"] for line in before if "interim_val_loss" in line][-1]
    longer = followed.model_copy(update={"train_iters": 40})
    starts = {}
    for method in ("zero_depth", "stack"):
        with job(method) as made:
            final = train(
                spec({"name": method, "growth_factor": 2}, training=longer), {"tokens": tokens, "base": base.out}, made
            )
        first = json.loads((made.out / METRICS).read_text().splitlines()[0])
        assert (first["step"], first["flops"]) == (0, read_config(base.out)["flops_spent"])
        assert first["interim_val_loss"] == final["start_loss"]
        starts[method] = final["start_loss"]
    assert starts["zero_depth"] == pytest.approx(before, rel=1e-6)
    assert starts["stack"] > before + 0.05


# Data


@pytest.mark.parametrize(
    ("policy", "base", "count", "start", "repeated"),
    [
        ("disjoint", 30, 70, 30, 0),
        ("disjoint", 0, 130, 0, 30),
        ("continue", 30, 70, 30, 0),
        ("continue", 30, 80, 30, 10),
        ("continue", 120, 10, 120, 10),
        ("restart", 30, 20, 0, 20),
        ("restart", 30, 50, 0, 30),
        ("restart", 30, 110, 0, 40),
    ],
)
def test_repeated_sequences_are_counted_as_a_naive_loop_counts_them(policy, base, count, start, repeated):
    """100 sequences an epoch; an epoch's numbers are all its texts."""
    ledger = place_data(policy, base, count, 100)
    assert (ledger.start_sequence, ledger.num_repeated_sequences) == (start, repeated)
    seen = {number for number in range(base) if number < 100} if base <= 100 else set(range(100))
    again = 0
    for number in range(start, start + count):
        again += number >= 100 or number in seen
    assert again == repeated


def test_text_that_base_and_grown_model_would_both_see_is_refused_unless_told(base, grow, job, tokens):
    with pytest.raises(
        RetraceError, match=r"--base has read 30 .* takes 80: 10 would come again.*data_policy: continue"
    ):
        place_data("disjoint", 30, 80, 100)
    disjoint = grow("disjoint", base, STACK)
    assert (disjoint.facts["start_sequence"], disjoint.facts["num_repeated_sequences"]) == (28, 0)
    again = grow("again", base, STACK, data_policy="restart")
    assert again.facts["start_sequence"] == 0
    assert again.facts["num_repeated_sequences"] == 28 < again.facts["train_iters"] * 4
    assert again.facts["data_policy"] == "restart"


def test_a_base_left_untrained_has_cost_nothing_and_can_be_grown(job, tokens, grow):
    from pipelines.pretrain.spec import TrainSpec
    from pipelines.pretrain.training import train as pretrain

    with job("untrained") as made:
        final = pretrain(TrainSpec(model=MODEL, training=TRAINING, train_bytes=0, seed=SEED), {"tokens": tokens}, made)
    assert (final["tokens"], final["flops"], final["train_loss"]) == (0, 0, None)
    assert final["val_loss"] > 3
    grown = grow("grown", made.out, STACK)
    assert grown.facts["train_iters"] == 12
