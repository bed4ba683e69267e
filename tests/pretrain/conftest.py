"""Tiny models in every form, and pretraining jobs run in this process."""

import json
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.megatron.spec import ModelSpec
from pipelines.runs.verb import Execution

VOCAB_SIZE = 40
MODEL = ModelSpec(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)
TRAINING = {"train_iters": 6, "global_batch_size": 4, "lr": 0.01, "log_interval": 2}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    from pipelines.megatron.indexed import write_documents

    folder = tmp_path_factory.mktemp("data") / "tokens"
    folder.mkdir()
    generator = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 20), ("validation", 3)):
        documents = [np.array([*np.repeat(generator.integers(1, VOCAB_SIZE, 20), 2), 0]) for _ in range(count)]
        num, tokens = write_documents(folder / name, documents, VOCAB_SIZE)
        splits[name] = {"num_tokens": tokens, "num_bytes": 100 * num, "num_documents": num}
    facts = {"vocab_size": VOCAB_SIZE, "eod_id": 0, "splits": splits, "tokenizer_key": "t"}
    (folder / "tokens.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def build():
    """``build(method, seed=0, initial=None)``: a tiny model in the form of a method, in this process."""
    from pipelines.megatron import backend
    from pipelines.megatron.model import build_model
    from pipelines.runs.methods import load_method

    backend.initialize(Execution())

    def build(method, seed=0, initial=None):
        loaded = load_method("pretrain", method)
        return build_model(
            MODEL, VOCAB_SIZE, seed=seed, prepare=lambda model: loaded.attach(model, MODEL, seed), initial=initial
        )

    yield build
    backend.shutdown()


@pytest.fixture
def trained(tokens, tmp_path):
    """``trained(name, method, seed=0, **training)``: a finished job: out, final metrics, facts of its record."""
    from pipelines.megatron import backend
    from pipelines.pretrain.spec import TrainSpec
    from pipelines.pretrain.training import train
    from pipelines.runs.job import Job

    def trained(name, method, seed=0, **training):
        spec = TrainSpec.model_validate(
            {"method": method, "model": MODEL, "training": {**TRAINING, **training}, "seed": seed}
        )
        (tmp_path / name).mkdir()
        with closing(Job(tmp_path / name, name, Execution())) as job:
            final = train(spec, {"tokens": tokens}, job)
        return SimpleNamespace(out=tmp_path / name, final=final, facts=job.facts)

    yield trained
    backend.shutdown()
