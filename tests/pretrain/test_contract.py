"""What every pretraining method must keep, whichever it is."""

import subprocess
import sys

import pytest
import torch

from pipelines.pretrain.memory import published_bytes, state_bytes
from pipelines.pretrain.spec import TrainSpec
from pipelines.runs.methods import list_methods, load_method, method_card

METHODS = list_methods("pretrain")
# Small enough for the tiny models; a method not named here is built with its defaults.
SMALL = {"low_rank": {"rank": 6}, "sltrain": {"rank": 6, "density": 0.1}}
TOKENS = torch.arange(32).view(2, 16)


def card(name):
    return {"name": name, **SMALL.get(name, {})}


def test_a_spec_that_names_no_method_is_dense():
    assert TrainSpec.model_fields["method"].default == {"name": "dense"}
    assert {"dense", "low_rank", "sltrain"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_paper_and_deviations(name):
    assert method_card("pretrain", name).summary
    module = __import__(type(load_method("pretrain", card(name))).__module__, fromlist=["_"])
    assert "Paper:" in module.__doc__
    assert "Deviations:" in module.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_counts_are_what_the_built_model_has(name, build):
    from .conftest import MODEL, VOCAB_SIZE

    model, method = build(card(name)), load_method("pretrain", card(name))
    assert sum(p.numel() for p in model.parameters()) == method.num_parameters(MODEL, VOCAB_SIZE)
    assert sum(b.numel() for b in model.buffers()) == method.num_indices(MODEL)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_run_allocates_is_what_the_shape_says_and_less_the_checkpoint_is_dense(name, trained):
    from pipelines.megatron.checkpoint import read_tensors

    from .conftest import MODEL, VOCAB_SIZE

    run, method = trained("run", card(name)), load_method("pretrain", card(name))
    trained_numbers, indices = method.num_parameters(MODEL, VOCAB_SIZE), method.num_indices(MODEL)
    assert run.final["num_parameters"] == trained_numbers
    assert run.final["state_bytes"] == sum(run.facts["state_bytes"].values()) == state_bytes(trained_numbers, indices)
    assert run.final["bf16_state_bytes"] == published_bytes(trained_numbers, indices)
    dense = load_method("pretrain", "dense").num_parameters(MODEL, VOCAB_SIZE)
    assert sum(tensor.numel() for tensor in read_tensors(run.out).values()) == dense


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_every_method_moves(name, trained):
    from pipelines.pretrain.loading import load_as_trained

    run, untouched = trained("run", card(name)), trained("short", card(name), train_iters=1, lr=1e-12)
    after, before = dict(load_as_trained(run.out).named_parameters()), load_as_trained(untouched.out)
    still = [n for n, p in before.named_parameters() if (p - after[n]).abs().max() < 1e-4]
    assert still == []


@pytest.mark.parametrize("name", METHODS)
def test_every_model_reloads_as_it_was_trained(name, trained, tokens):
    from pipelines.megatron.data import evaluation_windows, open_tokens
    from pipelines.pretrain.loading import load_as_trained

    run = trained("run", card(name), seed=3, precision="fp32")
    model, text = load_as_trained(run.out), evaluation_windows(open_tokens(tokens), 16)
    loss = model(text.inputs, labels=text.labels).item() / text.num_tokens
    assert loss == pytest.approx(run.final["val_loss"], rel=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_listing_and_describing_methods_loads_no_torch(name):
    code = (
        "import sys; from pipelines.runs.methods import load_method; from pipelines.pretrain import verbs; "
        f"load_method('pretrain', {card(name)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
