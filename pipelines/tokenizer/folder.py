"""The tokenizer artifact: Hugging Face's files, plus ``scaffold.json`` or ``picky.json`` where tokens left again.

``tokenizer.json`` holds every token there ever was: 0..N-1 are the vocabulary a model sees, N.. those that left it.
Read alone it is a valid tokenizer of all of them; with ``scaffold.json`` it is exact Scaffold-BPE of N, with
``picky.json`` exact PickyBPE. The Python files beside them are the class that reads both, for programs without this
package (``trust_remote_code``); nothing here runs them.
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

    from pipelines.tokenizer.picky_encoding import PickyEncoder
    from pipelines.tokenizer.protocol import LearnedVocabulary

TOKENIZER = "tokenizer.json"
SCAFFOLD = "scaffold.json"
PICKY = "picky.json"
# Of each class its own module, then what it imports.
CLASS_MODULES = {
    "ScaffoldTokenizer": ("scaffold_tokenizer", "scaffold_backend", "expanded_encoding", "expansion"),
    "PickyTokenizer": (
        "picky_tokenizer",
        "picky_backend",
        "picky_encoding",
        "scaffold_tokenizer",
        "scaffold_backend",
        "expanded_encoding",
        "expansion",
    ),
}
FILES = (
    TOKENIZER,
    SCAFFOLD,
    PICKY,
    "tokenizer_config.json",
    "special_tokens_map.json",
    *(f"{name}.py" for name in CLASS_MODULES["PickyTokenizer"]),
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
    if learned.events or learned.scaffold_tokens:
        expansions = [[vocabulary[part] for part in learned.expansions[t]] for t in learned.scaffold_tokens]
        counts = {"vocab_size": learned.vocab_size, "frequencies": learned.frequencies, "expansions": expansions}
        if learned.events:
            name = "PickyTokenizer"
            body = {"events": learned.events, "removed_tokens": learned.scaffold_tokens}
            _write_json(out / PICKY, {**body, **counts})
        else:
            name = "ScaffoldTokenizer"
            body = {"merges": learned.merges, "scaffold_tokens": learned.scaffold_tokens}
            _write_json(out / SCAFFOLD, {**body, **counts})
        modules = CLASS_MODULES[name]
        config |= {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"{modules[0]}.{name}", None]}}
        for module in modules:
            shutil.copyfile(_source(module), out / f"{module}.py")
    _write_json(out / "tokenizer_config.json", config)


def read_tokenizer(path: Path) -> tuple[Tokenizer, ExpansionTable | None]:
    """The encoder of a folder, and what its scaffolds expand to (None without scaffolds).

    Raises:
        RetraceError: a file is missing, cut short or does not fit the other.
    """
    tokenizer = _read_encoder(path)
    try:
        if _names_class(path, "ScaffoldTokenizer", SCAFFOLD):
            return tokenizer, read_expansions(path / SCAFFOLD, tokenizer)[0]
    except ValueError as broken:
        raise RetraceError(str(broken)) from None
    return tokenizer, None


def read_picky_tokenizer(path: Path) -> tuple[Tokenizer, ExpansionTable, PickyEncoder] | None:
    """The encoder of a PickyBPE folder, its removed tokens and the encoder of its words; None for any other folder.

    Raises:
        RetraceError: a file is missing, cut short or does not fit the other.
    """
    if not _names_class(path, "PickyTokenizer", PICKY):
        return None
    from pipelines.tokenizer.picky_backend import read_picky

    tokenizer = _read_encoder(path)
    try:
        return tokenizer, *read_picky(path / PICKY, tokenizer)
    except ValueError as broken:
        raise RetraceError(str(broken)) from None


def _read_encoder(path: Path) -> Tokenizer:
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
    return tokenizer


def _names_class(path: Path, name: str, side_file: str) -> bool:
    """Whether a folder is of a class of ours. Without its second file it would pass for plain BPE over more tokens."""
    if (path / side_file).is_file():
        return True
    file = path / "tokenizer_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as broken:
        raise RetraceError(f"{file} is damaged ({broken}): train the tokenizer again") from None
    if config.get("tokenizer_class") == name:
        raise RetraceError(f"{path / side_file} is missing, but {file} names {name}: copy the whole folder")
    return False


def _source(module: str) -> Path:
    """A module's file, found without running it: the class's own needs transformers."""
    spec = importlib.util.find_spec(f"pipelines.tokenizer.{module}")
    assert spec is not None, module
    assert spec.origin is not None, module
    return Path(spec.origin)


def _write_json(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
