"""Verbs of the tokenizer stage."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb
from pipelines.tokenizer.spec import CountSpec, MeasureSpec, ScaffoldsSpec, TokenizerSpec, TokenizeSpec

_CORPUS = "corpus made by `data build`"
_TOKENIZER = "tokenizer made by `tokenizer train`"
_TEXT = {
    "corpus": _CORPUS + ", of which the training split is read",
    "input": "text or .jsonl files, or folders of them, also .gz; bytes that are not UTF-8 are read as U+FFFD, and "
    "their number is a warning and in run.json; may be repeated",
    "words": "words.tsv made by `tokenizer count`, or its folder; several add up; may be repeated",
}

VERBS: dict[str, Verb | Command] = {
    "train": Verb(
        help="Learn a vocabulary from a corpus, from text files, or from tables of words.",
        implementation="pipelines.tokenizer.train:train",
        spec=TokenizerSpec,
        inputs=_TEXT,
        optional=frozenset(_TEXT),
        many=frozenset({"input", "words"}),
        packages=("tokenizers",),
    ),
    "count": Verb(
        help="Count the words of a part of a text; tables of all parts train the tokenizer of the whole.",
        implementation="pipelines.tokenizer.train:count",
        spec=CountSpec,
        inputs=_TEXT,
        optional=frozenset(_TEXT),
        many=frozenset({"input", "words"}),
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
        inputs={
            "tokenizer": _TOKENIZER,
            "corpus": _CORPUS,
            "other": "corpus of another domain, of which the validation split is compressed",
        },
        optional=frozenset({"other"}),
        packages=("tokenizers",),
    ),
    "scaffolds": Verb(
        help="Find the tokens of an existing tokenizer that Scaffold-BPE would have hidden on a text.",
        implementation="pipelines.tokenizer.existing:scaffolds",
        spec=ScaffoldsSpec,
        inputs={
            "tokenizer": "folder with tokenizer.json of a BPE, or with GPT-2's vocab.json and merges.txt",
            **_TEXT,
        },
        optional=frozenset(_TEXT),
        many=frozenset({"input", "words"}),
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
    "export": Command(
        help="Write a tokenizer's files for tiktoken.",
        implementation="pipelines.tokenizer.commands:export",
    ),
}
