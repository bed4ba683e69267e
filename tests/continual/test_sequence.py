"""Methods at work on transformers' own classes, over a whole sequence of tasks."""

from __future__ import annotations

import pytest
import torch

from pipelines.continual.output_layers import output_layers
from pipelines.runs.job import read_metrics

MODELS = ["llama", "mixtral", "t5", "roberta"]
ALWAYS = {"name": "migu", "mask_first_task": True}


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("policy", ["mask_grad", "restore"])
@pytest.mark.parametrize("name", MODELS)
def test_threshold_zero_is_plain_finetuning_bit_for_bit(name, policy, adapter, train):
    options = {"adapter": adapter, "lora_rank": 3, "lora_dropout": 0.1 if adapter == "lora" else 0.0}
    plain, _, finetuned = train(name, "ft", **options)
    masked, strategy, sequence = train(name, {**ALWAYS, "threshold": 0.0, "policy": policy}, **options)
    assert same(weights(plain), weights(masked))
    assert sequence.matrix == finetuned.matrix
    assert strategy.metrics() == {"masked_rows_leaked_share": 0.0}


@pytest.mark.parametrize("name", MODELS)
def test_a_threshold_changes_the_outcome(name, train):
    assert not same(weights(train(name, "ft")[0]), weights(train(name, ALWAYS)[0]))


def after_each_task(train, method):
    """Weights at the end of each task."""
    seen = []

    def watch(strategy, model):
        strategy.end_task = lambda: seen.append(weights(model))

    train("llama", method, watch=watch)
    return seen


def test_the_first_task_is_trained_plainly_unless_asked(train):
    plain, default, always = (after_each_task(train, method) for method in ("ft", "migu", ALWAYS))
    assert same(plain[0], default[0])
    assert not same(plain[1], default[1])
    assert not same(plain[0], always[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_masked_rows_of_the_weights_stay_while_kept_rows_move(name, precision, train):
    """On weights, not gradients: a mask that never reaches the optimiser would pass a test of gradients."""
    masked_moved, kept_moved = [], []

    def watch(strategy, model):
        before_step, after_step, before = strategy.before_step, strategy.after_step, []

        def snapshot():
            before[:] = [source.weight.detach().clone() for source in strategy.recorder.sources]
            before_step()

        def compare():
            after_step()
            for source, mask, old in zip(strategy.recorder.sources, strategy.masks, before, strict=True):
                changed = (source.weight.detach() != old).any(dim=-1)
                masked_moved.append(bool(changed[~mask].any()))
                kept_moved.append(bool(changed[mask].any()))

        strategy.before_step, strategy.after_step = snapshot, compare

    method = {**ALWAYS, "policy": "restore"}
    _, strategy, _ = train(name, method, precision=precision, weight_decay=0.1, watch=watch)
    assert not any(masked_moved)
    assert all(kept_moved)
    assert strategy.metrics()["masked_rows_leaked_share"] == 0.0


def test_masking_gradients_alone_leaks_with_weight_decay_and_the_metric_says_so(train):
    _, strategy, _ = train("llama", ALWAYS, weight_decay=0.1)
    assert strategy.metrics()["masked_rows_leaked_share"] == 1.0


def test_the_random_control_masks_as_many_rows_and_differs_from_both(train):
    random, control, _ = train("llama", {**ALWAYS, "selection": "random"})
    ranked, strategy, _ = train("llama", ALWAYS)
    assert control.num_masked == strategy.num_masked > 0
    assert not same(weights(random), weights(ranked))
    assert not same(weights(random), weights(train("llama", "ft")[0]))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_output_layers_are_masked_only_when_included(name, train):
    model, strategy, _ = train(name, ALWAYS)
    head = model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight is head or name == "t5"
    assert all(source.weight is not head for source in strategy.recorder.sources)
    model, strategy, _ = train(name, {**ALWAYS, "include_lm_head": True})
    assert any(source.weight is model.get_output_embeddings().weight for source in strategy.recorder.sources)


def test_a_classification_head_is_an_output_layer(make_model):
    assert output_layers(make_model("roberta")) == ["classifier.dense", "classifier.out_proj"]


@pytest.mark.parametrize("name", MODELS)
def test_no_hook_is_left_behind(name, train):
    model, strategy, _ = train(name, ALWAYS)
    assert any(module._forward_hooks or "forward" in vars(module) for module in model.modules())
    strategy.detach()
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("count_padding", [False, True])
def test_magnitudes_ignore_padding_in_encoder_and_decoder_alike(
    name, count_padding, make_model, make_family, encoded_tasks
):
    """The sums over a padded batch equal those over its examples one by one, unless padding is counted."""
    from pipelines.continual.magnitudes import MagnitudeRecorder

    model = make_model(name).eval()
    family, task = make_family(name, model), encoded_tasks[1]
    sums = []
    for groups in ([task.train], [[example] for example in task.train]):
        recorder = MagnitudeRecorder(model, set(), count_padding=count_padding, per_token=False)
        for group in groups:
            batch = family.collate(group, task)
            recorder.start(batch.masks)
            family.label_logits(batch)
            recorder.stop()
        recorder.detach()
        sums.append({s.name: s.magnitudes for s in recorder.sources if s.name != "lm_head"})
    close = [torch.allclose(whole, sums[1][key], rtol=1e-4, atol=1e-5) for key, whole in sums[0].items()]
    assert len(close) == (14 if name == "llama" else 16)
    assert all(close) is not count_padding


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_micro_batches_give_the_same_masks(name, train, make_model):
    shape = {"dropout_rate": 0.0} if name == "t5" else {}

    def masks(**options):
        seen = []

        def watch(strategy, model):
            after = strategy.after_backward

            def note():
                after()
                seen.append(strategy.masks)

            strategy.after_backward = note

        train(name, ALWAYS, model=make_model(name, **shape), watch=watch, **options)
        return seen[0]

    whole, split = masks(), masks(micro_batch_size=2)
    assert all(torch.equal(one, other) for one, other in zip(whole, split, strict=True))


def test_every_row_of_the_matrix_covers_every_task_from_before_training_on(train):
    _, _, sequence = train("llama", "ft")
    assert [len(row) for row in sequence.matrix] == [2, 2, 2]
    assert all(0.0 <= cell <= 1.0 for row in sequence.matrix for cell in row)


def test_steps_and_evaluations_are_logged(train, make_job):
    _, _, sequence = train("llama", "ft", job=make_job("logged"), epochs=2)
    lines = read_metrics(make_job("logged").out)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["task"] for line in steps] == ["first"] * 6 + ["second"] * 6
    assert steps[-1]["tokens"] == sequence.tokens
    rows = [[line["first_acc"], line["second_acc"]] for line in lines if "first_acc" in line]
    assert rows == sequence.matrix


def test_every_task_starts_with_a_fresh_optimiser(train):
    seen = []

    def watch(strategy, model):
        strategy.begin_task = lambda index, optimizer: seen.append((index, optimizer, len(optimizer.state)))

    train("llama", "ft", watch=watch)
    assert [(index, size) for index, _, size in seen] == [(0, 0), (1, 0)]
    assert seen[0][1] is not seen[1][1]


def test_training_learns_a_task_it_can_learn(train, make_job):
    job = make_job("learned")
    train("llama", "ft", job=job, epochs=40, lr=0.01)
    losses = [line["loss"] for line in read_metrics(job.out) if line["task"] == "second" and "loss" in line]
    assert sum(losses[-3:]) < 0.3 * sum(losses[:3])
