"""The tokenizer artifact: Hugging Face's files, plus ``scaffold.json`` where some tokens are scaffolds.

``tokenizer.json`` holds every token the encoder makes: 0..N-1 are the vocabulary a model sees, N.. the scaffolds.
Read alone it is a valid tokenizer of |E| tokens; with ``scaffold.json`` it is exact Scaffold-BPE of N.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.expansion import ExpansionTable
from pipelines.tokenizer.spec import END_OF_DOCUMENT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pipelines.tokenizer.protocol import LearnedVocabulary

TOKENIZER = "tokenizer.json"
SCAFFOLD = "scaffold.json"
FILES = (TOKENIZER, SCAFFOLD, "tokenizer_config.json", "special_tokens_map.json")


def write_tokenizer(out: Path, learned: LearnedVocabulary, special_tokens: tuple[str, ...]) -> None:
    """Write a learnt vocabulary as a tokenizer folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: place for place, token in enumerate(learned.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=learned.merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    tokenizer.save(str(out / TOKENIZER))
    if learned.scaffold_tokens:
        scaffold = {
            "vocab_size": learned.vocab_size,
            "merges": [list(pair) for pair in learned.merges],
            "scaffold_tokens": learned.scaffold_tokens,
            "frequencies": learned.frequencies,
            "expansions": [[vocabulary[part] for part in learned.expansions[t]] for t in learned.scaffold_tokens],
        }
        _write_json(out / SCAFFOLD, scaffold)
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_DOCUMENT)
    _write_json(out / "special_tokens_map.json", named)
    config = {
        # AutoTokenizer knows the second name once pipelines.tokenizer.scaffold_tokenizer is imported.
        "tokenizer_class": "ScaffoldTokenizer" if learned.scaffold_tokens else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        **named,
    }
    _write_json(out / "tokenizer_config.json", config)


def read_tokenizer(path: Path) -> tuple[Tokenizer, ExpansionTable | None]:
    """The encoder of a folder, and what its scaffolds expand to (None without scaffolds).

    Raises:
        RetraceError: a file is missing, cut short or does not fit the other.
    """
    from tokenizers import Tokenizer

    file = path / TOKENIZER
    if not file.is_file():
        raise RetraceError(f"{file} is missing: {path} is not a tokenizer; make one with `tokenizer train`")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as broken:  # tokenizers raises bare Exception
        raise RetraceError(f"{file} is damaged ({str(broken)[:120]}): train the tokenizer again") from None
    if tokenizer.token_to_id(END_OF_DOCUMENT) is None:
        raise RetraceError(f"{file} has no {END_OF_DOCUMENT} token, which ends every document: train it anew")
    scaffold = path / SCAFFOLD
    if not scaffold.is_file():
        return tokenizer, None
    try:
        body = json.loads(scaffold.read_text(encoding="utf-8"))
        table = _expansion_table(tokenizer, body)
    except (ValueError, KeyError, TypeError) as broken:
        raise RetraceError(
            f"{scaffold} is damaged or belongs to another {TOKENIZER} ({broken}): train the tokenizer again"
        ) from None
    return tokenizer, table


def _expansion_table(tokenizer: Tokenizer, body: dict[str, Any]) -> ExpansionTable:
    """Build the table and hold it against the encoder's vocabulary, so that decoding can never change a byte."""
    num_visible, scaffolds, parts = body["vocab_size"], body["scaffold_tokens"], body["expansions"]
    if tokenizer.get_vocab_size() != num_visible + len(scaffolds) or len(parts) != len(scaffolds):
        raise ValueError(f"{num_visible} + {len(scaffolds)} tokens do not make {tokenizer.get_vocab_size()}")
    for place, (token, ids) in enumerate(zip(scaffolds, parts, strict=True)):
        if tokenizer.token_to_id(token) != num_visible + place:
            raise ValueError(f"scaffold {token!r} is not token {num_visible + place}")
        if not ids or not all(isinstance(i, int) and 0 <= i < num_visible for i in ids):
            raise ValueError(f"expansion of {token!r} leaves the vocabulary")
        if "".join(str(tokenizer.id_to_token(i)) for i in ids) != token:
            raise ValueError(f"expansion of {token!r} spells something else")
    return ExpansionTable([np.array(ids, dtype=np.int32) for ids in parts], num_visible)


def _write_json(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
