"""A `tokenizers.Tokenizer` over all tokens, shown as one over the N tokens a model sees.

Rust encodes, with scaffolds; then they are taken apart, and only then is anything truncated or padded. This file is
also copied into tokenizer folders, so it imports nothing of the package by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from .expanded_encoding import ExpandedEncoding, ScaffoldParts, WholeEncoding
from .expansion import ExpansionTable, read_expansions


class ScaffoldBackend:
    """The part of `tokenizers.Tokenizer` that Hugging Face's classes use, over ids 0..N-1 and tokens added later."""

    # Settings and methods to which ids do not matter.
    _SETTINGS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model", "encode_special_tokens")
    _PASSED_ON = (*_SETTINGS, "num_special_tokens_to_add", "save", "to_str")

    def __init__(self, tokenizer: Tokenizer, table: ExpansionTable) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.table = table
        self.parts = ScaffoldParts(tokenizer, table)
        self.truncation: dict[str, Any] | None = None
        self.padding: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if name in self._PASSED_ON:
            return getattr(self.tokenizer, name)
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._SETTINGS:
            setattr(self.tokenizer, name, value)
        else:
            object.__setattr__(self, name, value)

    def inner(self, index: int) -> int:
        """The encoder's id of an id: below N the same, then come scaffolds, then tokens added later."""
        return index if index < self.table.num_visible else index + self.table.num_scaffolds

    def outer(self, index: int | None) -> int | None:
        """The id of an encoder's id; None for a scaffold."""
        if index is None or index < self.table.num_visible:
            return index
        return index - self.table.num_scaffolds if index >= self.table.num_visible + self.table.num_scaffolds else None

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Ids a model sees."""
        return self.table.num_visible + (self.table.num_added if with_added_tokens else 0)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Token -> id of what a model sees."""
        everything = self.tokenizer.get_vocab(with_added_tokens)
        outer = ((token, self.outer(index)) for token, index in everything.items())
        return {token: index for token, index in outer if index is not None}

    def token_to_id(self, token: str) -> int | None:
        """Id of a token; None for a scaffold."""
        return self.outer(self.tokenizer.token_to_id(token))

    def id_to_token(self, index: int) -> str | None:
        """Token of an id."""
        token: str | None = self.tokenizer.id_to_token(self.inner(index))
        return token

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """Special and added tokens by id."""
        found = self.tokenizer.get_added_tokens_decoder()
        return {index: token for i, token in found.items() if (index := self.outer(i)) is not None}

    def add_tokens(self, tokens: Sequence[Any]) -> int:
        """Add tokens behind the vocabulary; returns how many are new.

        Raises:
            ValueError: a token has the letters of a scaffold.
        """
        return self._add(tokens, self.tokenizer.add_tokens)

    def add_special_tokens(self, tokens: Sequence[Any]) -> int:
        """Add special tokens behind the vocabulary; returns how many are new."""
        return self._add(tokens, self.tokenizer.add_special_tokens)

    def _add(self, tokens: Sequence[Any], add: Any) -> int:
        for token in tokens:
            inner = self.tokenizer.token_to_id(str(token))
            if inner is not None and self.outer(inner) is None:
                raise ValueError(f"{str(token)!r} is a scaffold token, which is always taken apart: add another")
        added: int = add(list(tokens))
        num_added = self.tokenizer.get_vocab_size() - self.table.num_visible - self.table.num_scaffolds
        self.table = ExpansionTable(self.table.expansions, self.table.num_visible, num_added)
        self.parts = ScaffoldParts(self.tokenizer, self.table)
        return added

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        text: str = self.tokenizer.decode([self.inner(int(i)) for i in ids], skip_special_tokens=skip_special_tokens)
        return text

    def decode_batch(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """Texts of several sequences of ids."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def enable_truncation(
        self, max_length: int, stride: int = 0, strategy: str = "longest_first", direction: str = "right"
    ) -> None:
        """Cut encodings to ``max_length`` ids, special tokens included."""
        self.truncation = {"max_length": max_length, "stride": stride, "strategy": strategy, "direction": direction}

    def no_truncation(self) -> None:
        """Leave encodings whole."""
        self.truncation = None

    def enable_padding(
        self,
        direction: str = "right",
        pad_id: int = 0,
        pad_type_id: int = 0,
        pad_token: str = "[PAD]",
        length: int | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        """Lengthen encodings to ``length``, or to the longest of a batch."""
        self.padding = {
            "length": length,
            "pad_to_multiple_of": pad_to_multiple_of,
            "pad_id": pad_id,
            "pad_token": pad_token,
            "pad_type_id": pad_type_id,
            "direction": direction,
        }

    def no_padding(self) -> None:
        """Leave encodings of different lengths."""
        self.padding = None

    def encode(
        self, sequence: Any, pair: Any = None, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Any:
        """Encode one text, or a pair."""
        item = sequence if pair is None else (sequence, pair)
        return self.encode_batch([item], is_pretokenized, add_special_tokens)[0]

    def encode_batch(
        self, batch: Sequence[Any], is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> list[Any]:
        """Encode texts or pairs: an `Encoding` each, or an ``ExpandedEncoding``, which answers the same."""
        encoded = self.tokenizer.encode_batch(
            list(batch), is_pretokenized=is_pretokenized, add_special_tokens=add_special_tokens
        )
        if self.truncation is None and self.padding is None:
            return [self.expanded(each, is_pretokenized) for each in encoded]
        wholes = [self.whole(each, is_pretokenized) for each in encoded]
        windows = [whole.windows(self.truncation) for whole in wholes]
        target = self._padded_length([len(each[0]) for each in windows])
        return [
            ExpandedEncoding(whole, places, target, self.padding) for whole, places in zip(wholes, windows, strict=True)
        ]

    def whole(self, encoding: Encoding, is_pretokenized: bool) -> WholeEncoding:
        """An encoding of the encoder with the ids a model sees."""
        return WholeEncoding(encoding, self.parts)

    def expanded(self, encoding: Encoding, is_pretokenized: bool) -> Any:
        """The same as it is given out; itself where it has nothing to expand."""
        if max(encoding.ids, default=0) < self.table.num_visible:
            return encoding
        whole = self.whole(encoding, is_pretokenized)
        return ExpandedEncoding(whole, whole.windows(None), 0, None)

    def _padded_length(self, lengths: list[int]) -> int:
        if self.padding is None:
            return 0
        target: int = self.padding["length"] if self.padding["length"] is not None else max(lengths, default=0)
        multiple = self.padding["pad_to_multiple_of"]
        return -(-target // multiple) * multiple if multiple else target


def read_backend(tokenizer_file: Path, scaffold_file: Path, /) -> ScaffoldBackend:
    """Open the two files of a Scaffold-BPE tokenizer.

    Raises:
        ValueError: one of them is missing, damaged or does not fit the other; the message names it.
    """
    tokenizer = read_encoder(tokenizer_file)
    return ScaffoldBackend(tokenizer, read_expansions(scaffold_file, tokenizer)[0])


def read_encoder(tokenizer_file: Path) -> Tokenizer:
    """Open a tokenizer.json.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        return Tokenizer.from_file(str(tokenizer_file))
    except Exception as broken:  # tokenizers raises bare Exception
        raise ValueError(f"{tokenizer_file} is damaged ({str(broken)[:120]}): train the tokenizer again") from None
