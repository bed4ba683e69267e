"""What a tokenizer method takes and gives, and the byte-level alphabet all of them start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipelines.tokenizer.spec import TokenizerSpec
    from pipelines.tokenizer.words import Words

Report = Callable[[int], None]
"""Told the size of the vocabulary while it grows."""

Event = tuple[str, str | tuple[str, ...]]
"""A merge, as the two tokens, or a split, as the token and the tuple of its parts."""


@dataclass(frozen=True)
class LearnedVocabulary:
    """A vocabulary in byte-level token strings.

    Attributes:
        tokens: every token the encoder may make, at its id: special tokens, 256 bytes, learnt ones; scaffolds last.
        merges: pairs of tokens, first applied first.
        scaffold_tokens: the tokens at the end of ``tokens`` that no model sees.
        frequencies: token -> occurrences in the training text before scaffolds are taken apart.
        expansions: scaffold token -> the tokens a model sees instead.
        events: merges and splits in order, where a method splits tokens again while it learns; else empty.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]
    scaffold_tokens: list[str] = field(default_factory=list)
    frequencies: dict[str, int] = field(default_factory=dict)
    expansions: dict[str, list[str]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        """Tokens a model sees."""
        return len(self.tokens) - len(self.scaffold_tokens)


class TokenizerMethod(Protocol):
    """A way to learn a vocabulary."""

    def learn(self, words: Words, spec: TokenizerSpec, report: Report) -> LearnedVocabulary:
        """Learn at most ``spec.vocab_size`` tokens; fewer when the words hold no more pairs."""
        ...


def byte_symbols() -> list[str]:
    """The 256 byte-level characters in the order Hugging Face numbers them (by code point)."""
    return sorted(symbol_of_byte().values())


def alphabet() -> list[bytes]:
    """The single bytes in that order."""
    return [from_symbols(symbol) for symbol in byte_symbols()]


def symbol_of_byte() -> dict[int, str]:
    """Byte -> the printable character that GPT-2 writes it as (Radford et al. 2019, ``bytes_to_unicode``)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return symbols


def to_symbols(token: bytes) -> str:
    """Bytes in byte-level characters."""
    return token.decode("latin-1").translate(_symbol_of_code())


def from_symbols(symbols: str) -> bytes:
    """The bytes that byte-level characters stand for; none if one of them stands for nothing."""
    bytes_of = _byte_of_symbol()
    try:
        return bytes([bytes_of[symbol] for symbol in symbols])
    except KeyError:
        return b""


@cache
def _symbol_of_code() -> dict[int, int]:
    return {byte: ord(symbol) for byte, symbol in symbol_of_byte().items()}


@cache
def _byte_of_symbol() -> dict[str, int]:
    return {symbol: byte for byte, symbol in symbol_of_byte().items()}
