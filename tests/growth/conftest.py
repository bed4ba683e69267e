"""A made-up token artifact, and growth jobs run in this process."""

import json

import numpy as np
import pytest

from pipelines.runs.verb import Execution

VOCAB_SIZE = 32


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    """A token artifact of made-up documents, each counting up from where it starts."""
    from pipelines.megatron.indexed import write_documents

    folder = tmp_path_factory.mktemp("tokens")
    starts = np.random.default_rng(0).integers(1, VOCAB_SIZE, size=120)
    documents = [np.append(1 + (start + np.arange(30)) % (VOCAB_SIZE - 1), 0) for start in starts]
    splits = {}
    for name, part in (("train", documents[:110]), ("validation", documents[110:])):
        num_documents, num_tokens = write_documents(folder / name, part, VOCAB_SIZE)
        splits[name] = {"num_tokens": num_tokens, "num_bytes": 2 * num_tokens, "num_documents": num_documents}
    facts = {"vocab_size": VOCAB_SIZE, "eod_id": 0, "splits": splits, "tokenizer_key": "made up"}
    (folder / "tokens.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.fixture
def job(tmp_path):
    """``with job("name") as job``: a job on one process that writes under tmp_path."""
    from contextlib import contextmanager

    from pipelines.runs.job import Job

    @contextmanager
    def job(name):
        made = Job(tmp_path / name, "key", Execution())
        made.out.mkdir()
        yield made
        made.close()

    return job
