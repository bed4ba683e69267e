"""Real jobs of a second each, in a checkout of their own: a made-up corpus, its tokenizer, tokens and a model."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.runs.store import Record, Store
from tests.workflow.clones import store_of

WORDS = ["model", "layer", "token", "expert", "router", "growth", "stack", "loss", "train", "seed"]
MODEL = {
    "model": {
        "num_layers": 1,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 2,
        "num_query_groups": 1,
        "seq_length": 32,
    },
    "training": {"train_iters": 6, "global_batch_size": 4, "lr": 0.01, "log_interval": 1},
    "seed": 0,
}
# What each run writes anew; everything else of an artifact follows from its key.
OF_THIS_RUN = {"run.json"}


@dataclass
class SmallJobs:
    """Commands in one checkout, with the store on.

    Attributes:
        folder: the checkout, a copy.
        command: the ``run_cli`` fixture.
        environment: added to every command's.
    """

    folder: Path
    command: Callable[..., subprocess.CompletedProcess[str]]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = self.folder / "texts"
        texts.mkdir(exist_ok=True)
        draw = random.Random(0)
        for number in range(8):
            paragraphs = (" ".join(draw.choices(WORDS, k=200)) for _ in range(20))
            (texts / f"{number}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")

    @property
    def store(self) -> Store:
        """The checkout's store, which the tests' own environment switches off."""
        return store_of(self.folder)

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """``python -m pipelines ARGUMENTS`` in the checkout."""
        if options.pop("overwrite", False):
            arguments = (*arguments, "--overwrite")
        # Unfinished work stays with the checkout, as it does for a person.
        environment = {
            "RETRACE_STORE": "full",
            "RETRACE_WORK": str(self.folder / ".retrace" / "work"),
            **self.environment,
            **options.pop("env", {}),
        }
        return self.command(*arguments, cwd=self.folder, env=environment, **options)

    def corpus(self, out: str = "results/corpus", **options: Any) -> subprocess.CompletedProcess[str]:
        spec = {"source": "local", "validation_fraction": 0.2}
        return self.run("data", "build", "--folder", "texts", "--out", out, spec=spec, **options)

    def tokenizer(self, out: str = "results/tokenizer", **options: Any) -> subprocess.CompletedProcess[str]:
        spec = {"method": "bpe", "vocab_size": 300}
        return self.run("tokenizer", "train", "--corpus", "results/corpus", "--out", out, spec=spec, **options)

    def tokens(self, out: str = "results/tokens", **options: Any) -> subprocess.CompletedProcess[str]:
        inputs = ("--tokenizer", "results/tokenizer", "--corpus", "results/corpus")
        return self.run("tokenizer", "tokenize", *inputs, "--out", out, **options)

    def model(self, out: str = "results/model", **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("pretrain", "train", "--tokens", "results/tokens", "--out", out, spec=MODEL, **options)

    def run_record(self, out: str) -> dict[str, Any]:
        """run.json of an artifact."""
        values: dict[str, Any] = json.loads((self.folder / out / "run.json").read_text(encoding="utf-8"))
        return values

    def record(self, out: str) -> Record:
        """The store's record of an artifact."""
        record = self.store.record(self.run_record(out)["key"])
        assert record is not None, f"{out} is not in the store"
        return record

    def content(self, out: str) -> dict[str, bytes]:
        """File name -> bytes of all that is the same in every run of a job."""
        folder = self.folder / out
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in OF_THIS_RUN
        }

    def objects(self, out: str) -> list[Path]:
        """Where the store keeps an artifact's files, the largest first."""
        files = sorted(self.record(out).files, key=lambda each: -each.size)
        return [self.store.cache.path(each.md5) for each in files]
