"""Tiny mixture-of-experts models on one process."""

import json

import numpy as np
import pytest

from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.verb import Execution

MODEL = ModelSpec(
    num_layers=3,
    hidden_size=16,
    ffn_hidden_size=24,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=12,
    init_method_std=0.2,
)
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=10, moe_aux_loss_coeff=0.0)
VOCAB_SIZE = 32


@pytest.fixture(autouse=True)
def process_groups():
    from pipelines.megatron import backend

    backend.initialize(Execution())


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    """A token artifact of made-up documents, each counting up from where it starts."""
    from pipelines.megatron.indexed import write_documents

    folder = tmp_path_factory.mktemp("tokens")
    starts = np.random.default_rng(0).integers(1, VOCAB_SIZE, size=60)
    documents = [np.append(1 + (start + np.arange(30)) % (VOCAB_SIZE - 1), 0) for start in starts]
    splits = {}
    for name, part in (("train", documents[:55]), ("validation", documents[55:])):
        num_documents, num_tokens = write_documents(folder / name, part, VOCAB_SIZE)
        splits[name] = {"num_tokens": num_tokens, "num_bytes": 2 * num_tokens, "num_documents": num_documents}
    facts = {"vocab_size": VOCAB_SIZE, "eod_id": 0, "splits": splits, "tokenizer_key": "made up"}
    (folder / "tokens.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny():
    """(ModelSpec, ExpertSpec) of the tiny models."""
    return MODEL, EXPERTS


@pytest.fixture
def build():
    """``build(method, experts=..., seed=...)``: a model with the routers of a method."""
    from pipelines.megatron.model import build_model
    from pipelines.runs.methods import load_method

    def build(method, experts=EXPERTS, model=MODEL, seed=0, initial=None):
        loaded = load_method("moe", method)
        return build_model(
            model,
            VOCAB_SIZE,
            experts,
            seed=seed,
            router_builder=loaded.router(),
            prepare=loaded.attach,
            initial=initial,
        )

    return build


@pytest.fixture
def watch_routers():
    """``with watch_routers(model) as seen``: (input, logits) of every layer's router, in order."""
    from contextlib import contextmanager

    @contextmanager
    def watch(model):
        seen = []

        def watched(gating):
            def gate(hidden):
                logits = gating(hidden)
                seen.append((hidden, logits))
                return logits

            return gate

        routers = [layer.mlp.router for layer in model.decoder.layers]
        for router in routers:
            router.gating = watched(router.gating)
        yield seen
        for router in routers:
            del router.gating

    return watch
