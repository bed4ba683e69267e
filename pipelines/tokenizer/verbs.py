"""Verbs of the tokenizer stage."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb
from pipelines.tokenizer.spec import MeasureSpec, TokenizerSpec, TokenizeSpec

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
    "measure": Verb(
        help="Measure a tokenizer: compression of held-out text, use of its vocabulary in training text.",
        implementation="pipelines.tokenizer.measure:measure",
        spec=MeasureSpec,
        inputs={"tokenizer": _TOKENIZER, "corpus": _CORPUS},
        packages=("tokenizers",),
    ),
    "encode": Command(
        help="Text on standard input to ids on standard output.",
        implementation="pipelines.tokenizer.commands:encode",
    ),
    "decode": Command(
        help="Ids on standard input to text on standard output.",
        implementation="pipelines.tokenizer.commands:decode",
    ),
}
