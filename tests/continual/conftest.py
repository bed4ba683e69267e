"""Tiny random models of every family, tasks of random tokens, and a way to train on them without a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.continual.families.causal import CausalFamily
from pipelines.continual.families.classification import ClassificationFamily
from pipelines.continual.families.seq2seq import Seq2SeqFamily
from pipelines.continual.models import add_lora
from pipelines.continual.prompts import EncodedTask
from pipelines.continual.sequence import TaskSequence
from pipelines.continual.spec import FinetuneSpec
from pipelines.runs.job import Job
from pipelines.runs.methods import load_method
from pipelines.runs.verb import Execution

VOCAB = 48
FAMILIES = {"llama": CausalFamily, "mixtral": CausalFamily, "t5": Seq2SeqFamily, "roberta": ClassificationFamily}


def llama(**changes):
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": 0,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**shape, **changes}))


def mixtral():
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        num_local_experts=3,
        num_experts_per_tok=2,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2,
    )
    model = MixtralForCausalLM(config)
    model.set_experts_implementation("eager")
    return model


def t5(**changes):
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration

    shape = {
        "vocab_size": VOCAB,
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 4,
        "dropout_rate": 0.1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**{**shape, **changes}))


def roberta():
    from transformers.models.roberta.configuration_roberta import RobertaConfig
    from transformers.models.roberta.modeling_roberta import RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=66,
        type_vocab_size=1,
        num_labels=5,
        pad_token_id=1,
        initializer_range=0.2,
    )
    return RobertaForSequenceClassification(config)


MAKERS = {"llama": llama, "mixtral": mixtral, "t5": t5, "roberta": roberta}


@pytest.fixture
def make_model():
    """``make_model("llama")``: a tiny random model, the same every time."""

    def make(name: str, **changes):
        torch.manual_seed(7)
        return MAKERS[name](**changes)

    return make


@pytest.fixture
def make_family():
    return lambda name, model: FAMILIES[name](model, 1 if name == "roberta" else 0)


@pytest.fixture
def encoded_tasks() -> list[EncodedTask]:
    """Two tasks of random tokens and uneven lengths; options of one to three tokens."""
    random = np.random.default_rng(3)

    def examples(count: int, num_labels: int):
        return tuple(
            (tuple(random.integers(2, VOCAB, size=random.integers(3, 12)).tolist()), int(random.integers(num_labels)))
            for _ in range(count)
        )

    return [
        EncodedTask("first", ((5, 0), (6, 7, 0)), (0, 1), examples(12, 2), examples(8, 2)),
        EncodedTask("second", ((8, 0), (9, 3, 4, 0), (9, 3, 0)), (2, 3, 4), examples(12, 3), examples(8, 3)),
    ]


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """``make_job(name)``: a job that writes under the test's folder; 0 checkpoint_seconds is after every step."""
    monkeypatch.setenv("RETRACE_WORK", str(tmp_path / "work"))

    jobs = []

    def make(name: str = "job", checkpoint_seconds: float = 60.0) -> Job:
        out = tmp_path / name
        out.mkdir(parents=True, exist_ok=True)
        jobs.append(Job(out, name, Execution(checkpoint_seconds=checkpoint_seconds)))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


@pytest.fixture
def train(make_model, make_family, encoded_tasks, make_job):
    """``train("llama", method, lr=...)`` -> (model, strategy, sequence) after the whole sequence.

    ``method`` is a name, a dict or a method itself. ``watch(strategy, model)`` may wrap hooks before training.
    """
    count = iter(range(100))

    def run(name: str, method, model=None, job=None, watch=lambda strategy, model: None, **changes):
        model = make_model(name) if model is None else model
        spec = FinetuneSpec(**{"method": {}, "lr": 0.01, "batch_size": 4, "seed": 5, **changes})
        torch.manual_seed(spec.seed)
        if spec.adapter == "lora":
            add_lora(model, spec)
        started = method if hasattr(method, "start") else load_method("continual", method)
        strategy = started.start(model, spec.seed)
        watch(strategy, model)
        sequence = TaskSequence(
            spec, encoded_tasks, model, make_family(name, model), job or make_job(f"job{next(count)}")
        )
        sequence.run(strategy)
        return model, strategy, sequence

    return run


@pytest.fixture
def task_folder(tmp_path) -> Path:
    """Two labelled tasks on disk."""
    folder = tmp_path / "tasks"
    words = {"colour": ("red", "dark blue"), "animal": ("cat", "dog", "owl")}
    for name, labels in words.items():
        (folder / name).mkdir(parents=True)
        card = {"name": name, "labels": list(labels), "question": f"Which {name}?", "proxy": True}
        (folder / name / "task.json").write_text(json.dumps(card), encoding="utf-8")
        for split, count in (("train", 12), ("validation", 4), ("test", 6)):
            lines = [
                {"text": f"a {labels[k % len(labels)]} thing, number {k}", "label": labels[k % len(labels)]}
                for k in range(count)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    (folder / "tasks.json").write_text(json.dumps({"tasks": list(words)}), encoding="utf-8")
    return folder
