"""A small made-up token artifact, and a process group of one for tests that build models in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

VOCAB = 96
EOD = 0


def write_tokens(folder: Path, num_documents: int = 60, length: int = 70) -> Path:
    """A token artifact of Markov-chain documents: something a model can learn."""
    from pipelines.megatron.indexed import write_documents

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    follows = generator.integers(1, VOCAB, size=(VOCAB, 3))
    splits = {}
    for name, count in (("train", num_documents), ("validation", max(num_documents // 10, 2))):
        documents = []
        for _ in range(count):
            ids = [int(generator.integers(1, VOCAB))]
            while len(ids) < length:
                ids.append(int(follows[ids[-1], generator.integers(0, 3)]))
            documents.append(np.array([*ids, EOD]))
        num, tokens = write_documents(folder / name, documents, VOCAB)
        each = [3 * length] * num
        splits[name] = {
            "num_tokens": tokens,
            "num_bytes": sum(each),
            "num_documents": num,
            "document_bytes": each,
        }
    facts = {"vocab_size": VOCAB, "eod_id": EOD, "splits": splits, "tokenizer_key": "made-up"}
    (folder / "tokens.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens")


@pytest.fixture
def one_process() -> Iterator[None]:
    from pipelines.megatron import backend
    from pipelines.runs.verb import Execution

    backend.initialize(Execution(processes=1))
    yield
    backend.shutdown()
