"""Typed specs of the tokenizer stage. Imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.runs.verb import Spec
from pipelines.tokenizer.protocol import from_symbols

END_OF_DOCUMENT = "<|endoftext|>"
NUM_BYTE_SYMBOLS = 256


class CountSpec(Spec):
    """How words are counted. Bytes that are not UTF-8 are read as U+FFFD, said in a warning and noted in run.json."""

    pattern: Literal["gpt2", "llama3", "whitespace", "none"] = Field(
        "gpt2", description="how text is split into words before merging; none: documents (of .txt files: lines) whole"
    )
    text_field: str = Field("text", description="of the objects in .jsonl files given with --input")


class TokenizerSpec(CountSpec):
    """A vocabulary to learn."""

    method: dict[str, Any] = Field({"name": "bpe"}, description="how the vocabulary is learnt")
    vocab_size: int = Field(2048, ge=1, description="ids a model sees, specials and the 256 bytes included")
    min_frequency: int = Field(1, ge=1, description="a pair must occur this often to become a token")
    special_tokens: tuple[str, ...] = Field((END_OF_DOCUMENT,), description="ids 0, 1, ...; never part of text")

    @model_validator(mode="after")
    def _enough_room(self) -> Self:
        if END_OF_DOCUMENT not in self.special_tokens:
            raise ValueError(f"special_tokens must contain {END_OF_DOCUMENT}, which ends every document")
        if len(set(self.special_tokens)) < len(self.special_tokens) or "" in self.special_tokens:
            raise ValueError("special_tokens must be distinct and not empty")
        if any(len(from_symbols(token)) == 1 for token in self.special_tokens):
            raise ValueError("special_tokens must have more than one character: single ones write the bytes of text")
        floor = NUM_BYTE_SYMBOLS + len(self.special_tokens)
        if self.vocab_size < floor:
            raise ValueError(
                f"vocab_size {self.vocab_size} is smaller than the {NUM_BYTE_SYMBOLS} bytes and "
                f"{len(self.special_tokens)} special tokens: set it to {floor} or more"
            )
        return self


class TokenizeSpec(Spec):
    """Tokens of a corpus: everything follows from the corpus and the tokenizer."""


class MeasureSpec(Spec):
    """What to measure of a tokenizer."""

    rare_count: int = Field(10, ge=0, description="a token seen at most this often in training text is rare")
    renyi_alpha: float = Field(2.5, gt=0, description="order of the Rényi entropy")

    @model_validator(mode="after")
    def _not_shannon(self) -> Self:
        if self.renyi_alpha == 1:
            raise ValueError("renyi_alpha 1 is undefined: Shannon's entropy is its limit; take a value beside it")
        return self


class ScaffoldsSpec(Spec):
    """Which tokens of an existing tokenizer would have been scaffolds."""

    head_frequency: float | None = Field(
        None, gt=0, description="a part of longer tokens left over less often is a scaffold; default: from the merges"
    )
    text_field: str = Field("text", description="of the objects in .jsonl files given with --input")
