"""Every kind of model: batches, losses and predictions against one example at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipelines.continual.families.batch import summed_loss


def naive_score(name, model, prompt, option):
    """Summed log-likelihood of one option after one prompt, nothing padded."""
    if name == "t5":
        decoder = torch.tensor([[0, *option[:-1]]])
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
    else:
        logits = model(input_ids=torch.tensor([prompt + option])).logits[0, len(prompt) - 1 : -1]
    return -cross_entropy(logits.float(), torch.tensor(option), reduction="sum").item()


@pytest.mark.parametrize("name", ["llama", "mixtral", "t5"])
def test_option_scores_equal_those_of_unpadded_single_options(name, make_model, make_family, encoded_tasks):
    model = make_model(name).eval()
    family = make_family(name, model)
    for task in encoded_tasks:
        prompts = [prompt for prompt, _ in task.test]
        with torch.inference_mode():
            scores = family.option_scores(prompts, task)
            expected = [[naive_score(name, model, p, option) for option in task.options] for p in prompts]
            torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-5, atol=2e-5)
            assert family.predict(prompts, task) == scores.argmax(dim=1).tolist()


@pytest.mark.parametrize("name", ["llama", "mixtral", "t5"])
def test_the_loss_is_the_mean_over_the_tokens_of_the_right_options(name, make_model, make_family, encoded_tasks):
    model = make_model(name).eval()
    task = encoded_tasks[1]
    batch = make_family(name, model).collate(task.train, task)
    loss = summed_loss(make_family(name, model).label_logits(batch), batch.labels_BK)
    expected = -sum(naive_score(name, model, prompt, task.options[label]) for prompt, label in task.train)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert batch.num_labels == sum(len(task.options[label]) for _, label in task.train)


def test_options_of_one_token_need_no_continuation(make_model, make_family, encoded_tasks):
    from dataclasses import replace

    model = make_model("llama").eval()
    task = replace(encoded_tasks[0], options=((5,), (6,)))
    prompt = task.test[0][0]
    scores = make_family("llama", model).option_scores([prompt], task)[0].tolist()
    assert scores == pytest.approx([naive_score("llama", model, prompt, option) for option in task.options], abs=1e-5)


def test_a_classifier_trains_on_all_classes_and_predicts_among_those_of_the_task(
    make_model, make_family, encoded_tasks
):
    model = make_model("roberta").eval()
    family = make_family("roberta", model)
    task = encoded_tasks[1]
    batch = family.collate(task.test, task)
    logits = torch.cat([model(input_ids=torch.tensor([prompt])).logits for prompt, _ in task.test])
    torch.testing.assert_close(family.label_logits(batch)[:, 0], logits, rtol=1e-5, atol=1e-5)
    assert batch.labels_BK[:, 0].tolist() == [task.label_indices[label] for _, label in task.test]
    assert family.predict([prompt for prompt, _ in task.test], task) == logits[:, [2, 3, 4]].argmax(1).tolist()


@pytest.mark.parametrize("name", ["llama", "t5", "roberta"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(name, make_model, make_family, encoded_tasks):
    task = encoded_tasks[1]
    gradients = []
    for size in (12, 5):
        model = make_model(name).eval()
        family = make_family(name, model)
        batch = family.collate(task.train, task)
        for first in range(0, 12, size):
            micro = batch.rows(first, min(first + size, 12))
            (summed_loss(family.label_logits(micro), micro.labels_BK) / batch.num_labels).backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
    for key, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], whole, rtol=1e-4, atol=1e-6, msg=key)


def test_a_batch_counts_real_tokens_only(make_model, make_family, encoded_tasks):
    task = encoded_tasks[0]
    prompts, answers = (sum(len(p) for p, _ in task.train), sum(len(task.options[k]) for _, k in task.train))
    llama, t5 = (make_family(name, make_model(name)).collate(task.train, task) for name in ("llama", "t5"))
    assert llama.num_tokens == t5.num_tokens == prompts + answers
