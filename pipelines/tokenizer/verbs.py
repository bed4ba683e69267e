"""Verbs of the tokenizer stage."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb
from pipelines.tokenizer.spec import TokenizerSpec, TokenizeSpec

_CORPUS = "corpus made by `data build`"
_TOKENIZER = "tokenizer made by `tokenizer train`"

VERBS: dict[str, Verb | Command] = {
    "train": Verb(
        help="Learn a vocabulary from a corpus's training split.",
        implementation="pipelines.tokenizer.train:train",
        spec=TokenizerSpec,
        inputs={"corpus": _CORPUS},
        packages=("tokenizers",),
    ),
    "tokenize": Verb(
        help="Write a corpus as Megatron token files.",
        implementation="pipelines.tokenizer.tokenize:tokenize",
        spec=TokenizeSpec,
        inputs={"corpus": _CORPUS, "tokenizer": _TOKENIZER},
        packages=("tokenizers",),
    ),
}
