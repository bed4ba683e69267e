import math

import pytest
import torch

from pipelines.megatron.spec import ModelSpec, TrainingSpec

MODEL = ModelSpec(
    num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=2, num_query_groups=2, seq_length=8
)
LR, LOW, WARMUP, STEPS = 0.1, 0.01, 4, 20


def lr(style, step):
    """The formula, step counted from 1."""
    if step <= WARMUP:
        return LR * step / WARMUP
    done = (step - WARMUP) / (STEPS - WARMUP)
    if style == "constant":
        return LR
    if style == "linear":
        return LOW + (LR - LOW) * (1 - done)
    if style == "cosine":
        return LOW + (LR - LOW) / 2 * (1 + math.cos(math.pi * done))
    left = (STEPS - step) / 5
    return LOW + (LR - LOW) * min(1.0, left)


@pytest.mark.parametrize("style", ["cosine", "linear", "constant", "WSD"])
def test_the_learning_rate_of_each_step_is_the_formulas(style):
    from pipelines.megatron.optimizer import build_optimizer, build_scheduler

    training = TrainingSpec(
        train_iters=STEPS,
        global_batch_size=1,
        lr=LR,
        min_lr=LOW,
        lr_warmup_iters=WARMUP,
        lr_decay_style=style,
        lr_wsd_decay_iters=5 if style == "WSD" else None,
    )
    optimizer = build_optimizer(torch.nn.Linear(2, 2), training)
    scheduler = build_scheduler(optimizer, training)
    for step in range(1, STEPS + 1):
        scheduler.step(1)
        assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(lr(style, step), rel=1e-12)] * 2


def rates(**schedule):
    from pipelines.megatron.optimizer import build_optimizer, build_scheduler

    training = TrainingSpec(global_batch_size=1, lr=LR, min_lr=LOW, lr_warmup_iters=WARMUP, **schedule)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), training)
    scheduler = build_scheduler(optimizer, training)
    found = []
    for _ in range(training.train_iters):
        scheduler.step(1)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_decays_of_any_length_share_the_stable_phase_and_start_where_it_ends():
    short = rates(train_iters=42, lr_decay_style="WSD", lr_wsd_decay_iters=2)
    long = rates(train_iters=50, lr_decay_style="WSD", lr_wsd_decay_fraction=0.2)
    assert short[:40] == long[:40]
    assert short[WARMUP - 1 : 40] == [LR] * (41 - WARMUP)
    assert long[40:] == pytest.approx([LOW + (LR - LOW) * left / 10 for left in range(9, -1, -1)])


def test_the_length_of_the_decay_is_given_once_and_fits():
    schedule = {"train_iters": 40, "global_batch_size": 1, "lr": LR, "lr_warmup_iters": WARMUP, "lr_decay_style": "WSD"}
    assert TrainingSpec(**schedule, lr_wsd_decay_fraction=0.025).wsd_decay_iters == 1
    assert TrainingSpec(**schedule, lr_wsd_decay_fraction=0.0001).wsd_decay_iters == 1
    with pytest.raises(ValueError, match="lr_wsd_decay_iters or lr_wsd_decay_fraction"):
        TrainingSpec(**schedule)
    with pytest.raises(ValueError, match="give one"):
        TrainingSpec(**schedule, lr_wsd_decay_iters=4, lr_wsd_decay_fraction=0.1)
    with pytest.raises(ValueError, match="exceeds the 36 steps after the warm-up"):
        TrainingSpec(**schedule, lr_wsd_decay_fraction=0.95)


def batches(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randint(0, 30, (2, 8), generator=generator), torch.randint(0, 30, (2, 8), generator=generator)


@pytest.mark.parametrize("clip_grad", [0.0, 0.5])
def test_steps_equal_a_plain_torch_loop(one_process, clip_grad):
    from pipelines.megatron.model import build_model
    from pipelines.megatron.stepping import drain_losses, start, take_step

    training = TrainingSpec(
        train_iters=6, global_batch_size=4, lr=0.01, lr_warmup_iters=2, clip_grad=clip_grad, precision="fp32"
    )
    state = start(build_model(MODEL, 30), training)
    plain = build_model(MODEL, 30)
    groups = [
        {"params": [p for p in plain.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    ours, theirs = batches(12), batches(12)
    for step in range(1, 7):
        take_step(state, ours, training, micro_batch=2)
        adam.zero_grad()
        losses = []
        for _ in range(2):
            inputs, labels = next(theirs)
            loss = plain(inputs, labels=labels) / labels.numel()
            (loss / 2).backward()
            losses.append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_grad or math.inf).item()
        done = (step - 2) / 4
        for group in adam.param_groups:
            group["lr"] = 0.01 * step / 2 if step <= 2 else 0.01 / 2 * (1 + math.cos(math.pi * done))
        adam.step()
        assert drain_losses(state)["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert state.grad_norm == pytest.approx(norm, rel=1e-4)
    for one, other in zip(state.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_run_in_several_schedules_goes_through_each_from_its_place_and_resumes_at_any_step():
    from pipelines.megatron.optimizer import Scheduler, build_optimizer
    from pipelines.megatron.schedule import Schedule

    shape = {"global_batch_size": 1, "lr": LR, "min_lr": LOW, "lr_warmup_iters": WARMUP}
    first, second = (TrainingSpec(train_iters=n, **shape) for n in (STEPS, 10))
    schedule = Schedule((first, second), offset=15, rewarm_iters=2)
    assert schedule.train_iters == 15
    optimizer = build_optimizer(torch.nn.Linear(2, 2), first)
    scheduler = Scheduler(optimizer, schedule)
    rates = []
    for _ in range(schedule.train_iters):
        scheduler.step(1)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(lr("cosine", 16) / 2)
    assert rates[1:5] == pytest.approx([lr("cosine", step) for step in (17, 18, 19, 20)])
    assert rates[5:9] == pytest.approx([LR * step / WARMUP for step in (1, 2, 3, 4)])
    assert rates[-1] == pytest.approx(LOW)
    assert [step for step in range(1, 16) if schedule.restarts(step)] == [6]
    for step in range(1, 16):
        resumed = Scheduler(optimizer, schedule)
        resumed.num_steps = step
        resumed.step(0)
        assert optimizer.param_groups[0]["lr"] == rates[step - 1]
