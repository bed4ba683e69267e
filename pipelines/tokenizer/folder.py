"""The tokenizer artifact: Hugging Face's files, plus ``scaffold.json`` where some tokens are scaffolds.

``tokenizer.json`` holds every token the encoder makes: 0..N-1 are the vocabulary a model sees, N.. the scaffolds.
Read alone it is a valid tokenizer of |E| tokens; with ``scaffold.json`` it is exact Scaffold-BPE of N. The Python files
beside them are the class that reads both, for programs without this package (``trust_remote_code``); nothing here runs
them.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.expansion import ExpansionTable, read_expansions
from pipelines.tokenizer.patterns import pre_tokenizer_of
from pipelines.tokenizer.spec import END_OF_DOCUMENT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from pipelines.tokenizer.protocol import LearnedVocabulary

TOKENIZER = "tokenizer.json"
SCAFFOLD = "scaffold.json"
# The first names the class; the others are what it imports.
CLASS_MODULES = ("scaffold_tokenizer", "scaffold_backend", "expanded_encoding", "expansion")
FILES = (
    TOKENIZER,
    SCAFFOLD,
    "tokenizer_config.json",
    "special_tokens_map.json",
    *(f"{name}.py" for name in CLASS_MODULES),
)


def write_tokenizer(
    out: Path, learned: LearnedVocabulary, special_tokens: tuple[str, ...], pattern: str = "gpt2"
) -> None:
    """Write a learnt vocabulary as a tokenizer folder."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocabulary = {token: place for place, token in enumerate(learned.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=learned.merges))
    tokenizer.pre_tokenizer = pre_tokenizer_of(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    tokenizer.save(str(out / TOKENIZER))
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_DOCUMENT)
    _write_json(out / "special_tokens_map.json", named)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        **named,
    }
    if learned.scaffold_tokens:
        scaffold = {
            "vocab_size": learned.vocab_size,
            "merges": [list(pair) for pair in learned.merges],
            "scaffold_tokens": learned.scaffold_tokens,
            "frequencies": learned.frequencies,
            "expansions": [[vocabulary[part] for part in learned.expansions[t]] for t in learned.scaffold_tokens],
        }
        _write_json(out / SCAFFOLD, scaffold)
        config["tokenizer_class"] = "ScaffoldTokenizer"
        config["auto_map"] = {"AutoTokenizer": [f"{CLASS_MODULES[0]}.ScaffoldTokenizer", None]}
        for name in CLASS_MODULES:
            shutil.copyfile(_source(name), out / f"{name}.py")
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
        _refuse_missing_scaffolds(path)
        return tokenizer, None
    try:
        return tokenizer, read_expansions(scaffold, tokenizer)
    except ValueError as broken:
        raise RetraceError(str(broken)) from None


def _refuse_missing_scaffolds(path: Path) -> None:
    """Without its table a Scaffold-BPE folder would pass for plain BPE over more tokens."""
    file = path / "tokenizer_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as broken:
        raise RetraceError(f"{file} is damaged ({broken}): train the tokenizer again") from None
    if config.get("tokenizer_class") == "ScaffoldTokenizer":
        raise RetraceError(f"{path / SCAFFOLD} is missing, but {file} names ScaffoldTokenizer: copy the whole folder")


def _source(module: str) -> Path:
    """A module's file, found without running it: the class's own needs transformers."""
    spec = importlib.util.find_spec(f"pipelines.tokenizer.{module}")
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin)


def _write_json(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
