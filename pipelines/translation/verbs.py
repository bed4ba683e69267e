"""Verbs of the translation stage."""

from __future__ import annotations

from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Execution, Spec, Verb
from pipelines.translation.spec import PairsSpec, TrainSpec


def check_train(spec: Spec, execution: Execution) -> None:
    """Refuse more than one process, before anything is loaded."""
    if execution.processes != 1:
        raise RetraceError(f"--exec processes is {execution.processes}: translation runs in one process; set it to 1")


VERBS = {
    "pairs": Verb(
        help="Read parallel text into pairs of sentences, and into a corpus for a joint tokenizer.",
        implementation="pipelines.translation.pairs:pairs",
        spec=PairsSpec,
        inputs={"folder": "folder of STEM.LANGUAGE files, line by line translations, also .gz (as Multi30k's)"},
    ),
    "train": Verb(
        help="Train a Transformer encoder-decoder on pairs of sentences; score its translations by BLEU and chrF.",
        implementation="pipelines.translation.training:train",
        spec=TrainSpec,
        inputs={"pairs": "folder made by `translation pairs`", "tokenizer": "folder made by `tokenizer train`"},
        packages=("torch", "transformers", "tokenizers", "sacrebleu"),
        check=check_train,
    ),
}
