"""What a tokenizer method gives, and the byte-level alphabet all of them start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipelines.tokenizer.spec import TokenizerSpec

Texts = Callable[[], Iterator[str]]
"""Opens the training text anew; methods may pass over it more than once."""


@dataclass(frozen=True)
class LearnedVocabulary:
    """A vocabulary in byte-level token strings.

    Attributes:
        tokens: every token the encoder may make, at its id: special tokens, 256 bytes, learnt ones; scaffolds last.
        merges: pairs of tokens, first applied first.
        scaffold_tokens: the tokens at the end of ``tokens`` that no model sees.
        frequencies: token -> occurrences in the training text before scaffolds are taken apart; empty if not counted.
        expansions: scaffold token -> the tokens a model sees instead.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]
    scaffold_tokens: list[str] = field(default_factory=list)
    frequencies: dict[str, int] = field(default_factory=dict)
    expansions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def vocab_size(self) -> int:
        """Tokens a model sees."""
        return len(self.tokens) - len(self.scaffold_tokens)


class TokenizerMethod(Protocol):
    """A way to learn a vocabulary."""

    def learn(self, texts: Texts, spec: TokenizerSpec) -> LearnedVocabulary:
        """Learn at most ``spec.vocab_size`` tokens; fewer when the text holds no more pairs."""
        ...


def byte_symbols() -> list[str]:
    """The 256 byte-level characters in the order Hugging Face numbers them (by code point)."""
    return sorted(symbol_of_byte().values())


def symbol_of_byte() -> dict[int, str]:
    """Byte -> the printable character that GPT-2 writes it as (Radford et al. 2019, ``bytes_to_unicode``)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable}
    symbols |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return symbols
