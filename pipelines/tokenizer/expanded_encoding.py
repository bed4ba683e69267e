"""Encodings of `tokenizers` with their scaffolds taken apart: what Rust would say, had it made those tokens itself.

This file is also copied into tokenizer folders, so it imports nothing of the package by its name.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from .expansion import ExpansionTable

Places = NDArray[np.int64]

# What an encoding says of padding, but for the id, the token and the type that the padding itself names.
_PADDING: dict[str, Any] = {
    "attention_mask": 0,
    "special_tokens_mask": 1,
    "offsets": (0, 0),
    "word_ids": None,
    "sequence_ids": None,
}


class ScaffoldParts:
    """What the parts of a scaffold are called, and where they lie in its text."""

    def __init__(self, tokenizer: Tokenizer, table: ExpansionTable) -> None:
        self.tokenizer = tokenizer
        self.table = table
        self._spans: dict[int, list[tuple[int, int]]] = {}

    def tokens(self, scaffold: int) -> list[str]:
        """The tokens that a scaffold, counted from 0, is taken apart into."""
        return [str(self.tokenizer.id_to_token(int(part))) for part in self.table.expansions[scaffold]]

    def offsets(self, scaffold: int, span: tuple[int, int]) -> list[tuple[int, int]]:
        """Characters of the text that each part covers.

        Args:
            span: characters that the scaffold covers.
        """
        if scaffold not in self._spans:
            self._spans[scaffold] = _spans(self.tokens(scaffold))
        spans = self._spans[scaffold]
        if span[1] - span[0] != spans[-1][1]:
            # A normalizer or trimmed offsets moved the ends: no part can be told from the others.
            return [span] * len(spans)
        return [(span[0] + start, span[0] + end) for start, end in spans]


class WholeEncoding:
    """One encoding before it is cut: Rust's, and how its places map to those after expansion."""

    def __init__(self, encoding: Encoding, parts: ScaffoldParts) -> None:
        self.encoding = encoding
        self.parts = parts
        self.table = table = parts.table
        ids = np.array(encoding.ids, dtype=np.int64)
        if table.num_added:
            # A template puts in the ids that the outside knows.
            outside = np.array(encoding.special_tokens_mask, dtype=np.bool_) & (ids >= table.num_visible)
            ids[outside] += table.num_scaffolds
        self.inner = ids
        self.ids, self.source = table.expand_with_source(ids)

    def column(self, name: str, places: Places) -> list[Any]:
        """One list of the encoding, at the given places among the expanded ids."""
        if name == "ids":
            return self.ids[places].tolist()
        if name == "attention_mask":
            return [1] * len(places)
        values = self.whole_list(name)
        sources = self.source[places]
        column = [values[place] for place in sources.tolist()]
        if name in ("tokens", "offsets"):
            own = self.inner[sources] - self.table.num_visible
            for index in np.flatnonzero((own >= 0) & (own < self.table.num_scaffolds)).tolist():
                scaffold, source = int(own[index]), int(sources[index])
                part = int(places[index] - np.searchsorted(self.source, source))
                if name == "tokens":
                    column[index] = self.parts.tokens(scaffold)[part]
                else:
                    column[index] = self.parts.offsets(scaffold, values[source])[part]
        return column

    @cached_property
    def _lists(self) -> dict[str, list[Any]]:
        return {}

    def whole_list(self, name: str) -> list[Any]:
        """One list of Rust's encoding, which makes it anew at every reading; all windows share this one."""
        if name not in self._lists:
            self._lists[name] = getattr(self.encoding, name)
        return self._lists[name]

    def _sequences(self) -> NDArray[np.int64]:
        """For every expanded id, the text it belongs to: 0, 1, or -1 for what a template put in."""
        if self.encoding.n_sequences == 1 and 1 not in self.whole_list("special_tokens_mask"):
            return np.zeros(len(self.ids), dtype=np.int64)
        return np.array([-1 if i is None else i for i in self.whole_list("sequence_ids")], dtype=np.int64)[self.source]

    def windows(self, truncation: dict[str, Any] | None) -> list[Places]:
        """The places each window keeps: the encoding itself first, then what overflows, in Rust's order.

        Raises:
            ValueError: nothing can be cut as asked.
        """
        everything = np.arange(len(self.ids))
        if truncation is None or len(everything) <= truncation["max_length"]:
            return [everything]
        sequence = self._sequences()
        special = np.flatnonzero(sequence < 0)
        texts = [np.flatnonzero(sequence == i) for i in range(self.encoding.n_sequences)]
        room = truncation["max_length"] - len(special)
        if room < 0:
            raise ValueError(f"max_length {truncation['max_length']} has no room for {len(special)} special tokens")
        lengths = _truncated_lengths([len(text) for text in texts], room, truncation["strategy"])
        cuts = [
            [text[start:stop] for start, stop in _cut(len(text), length, truncation["stride"], truncation["direction"])]
            for text, length in zip(texts, lengths, strict=True)
        ]
        first, others = cuts[0], cuts[1] if len(cuts) > 1 else [np.zeros(0, dtype=np.int64)]
        pairs = [(first[0], others[0]), *((a, b) for a in first[1:] for b in others)]
        pairs += [(first[0], b) for b in others[1:]]
        return [np.sort(np.concatenate([special, *pair])) for pair in pairs]


class ExpandedEncoding:
    """What `tokenizers.Encoding` tells, of the ids after expansion, truncation and padding.

    Lists (``ids``, ``tokens``, ``type_ids``, ``attention_mask``, ``special_tokens_mask``, ``offsets``, ``word_ids``,
    ``sequence_ids``, ``overflowing``) are made when asked for; for anything else (``char_to_token``, ...) an `Encoding`
    is made of them.
    """

    def __init__(
        self, whole: WholeEncoding, windows: list[Places], target: int, padding: dict[str, Any] | None
    ) -> None:
        self._whole = whole
        self._windows = windows
        self._target = target
        self._padding = padding
        self.n_sequences: int = whole.encoding.n_sequences

    def __len__(self) -> int:
        return max(len(self._windows[0]), self._target)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("ids", "tokens", "type_ids", *_PADDING):
            value: Any = self._column(name)
        elif name == "words":
            value = self.word_ids
        else:
            return getattr(self._encoding, name)
        self.__dict__[name] = value
        return value

    @cached_property
    def overflowing(self) -> list[ExpandedEncoding]:
        """The windows that truncation cut off."""
        return [ExpandedEncoding(self._whole, [each], self._target, self._padding) for each in self._windows[1:]]

    def _column(self, name: str) -> list[Any]:
        values = self._whole.column(name, self._windows[0])
        if self._padding is None or len(values) >= self._target:
            return values
        named = {"ids": "pad_id", "tokens": "pad_token", "type_ids": "pad_type_id"}
        fill = self._padding[named[name]] if name in named else _PADDING[name]
        filling = [fill] * (self._target - len(values))
        return filling + values if self._padding["direction"] == "left" else values + filling

    @cached_property
    def _encoding(self) -> Encoding:
        ranges = {}
        for sequence in range(self.n_sequences):
            places = [place for place, own in enumerate(self.sequence_ids) if own == sequence]
            ranges[sequence] = {"start": places[0], "end": places[-1] + 1} if places else {"start": 0, "end": 0}
        names = ("ids", "type_ids", "tokens", "words", "offsets", "special_tokens_mask", "attention_mask")
        state = {name: getattr(self, name) for name in names}
        encoding = Encoding()
        encoding.__setstate__(json.dumps({**state, "overflowing": [], "sequence_ranges": ranges}).encode())
        return encoding


def _truncated_lengths(lengths: list[int], room: int, strategy: str) -> list[int]:
    """How many ids of each text are kept, by the rules of `tokenizers`.

    Raises:
        ValueError: the text that may be cut is missing or too short.
    """
    surplus = sum(lengths) - room
    if room == 0:
        return [0] * len(lengths)
    if strategy in ("only_first", "only_second"):
        which = strategy == "only_second"
        if which >= len(lengths):
            raise ValueError("truncation only_second, but there is no second text")
        if lengths[which] <= surplus:
            raise ValueError(f"truncation {strategy}: that text is too short to make room for {surplus} ids less")
        return [length - surplus if i == which else length for i, length in enumerate(lengths)]
    if len(lengths) == 1:
        return [room]
    shorter = min(lengths)
    kept = shorter, max(shorter, room - shorter)
    if sum(kept) > room:
        kept = room // 2, room // 2 + room % 2
    return list(kept) if lengths[0] <= lengths[1] else [kept[1], kept[0]]


def _cut(length: int, window: int, stride: int, direction: str) -> list[tuple[int, int]]:
    """Windows over ``length`` ids that overlap by ``stride``: first the one that is kept.

    Raises:
        ValueError: the stride leaves no way on.
    """
    if window >= length:
        return [(0, length)]
    if window == 0:
        return [(0, 0), (0, length)]
    if stride >= window:
        raise ValueError(f"stride {stride} must be less than the {window} ids that max_length leaves for the text")
    starts = range(0, length - stride, window - stride)
    bounds = [(start, min(start + window, length)) for start in starts]
    return bounds if direction == "right" else [(length - stop, length - start) for start, stop in bounds]


def _spans(parts: list[str]) -> list[tuple[int, int]]:
    """First character of each part and the one after its last, counted from where the first part begins."""
    # It may begin inside a character; then its first one is that character.
    character = 0 if _continues(parts[0][0]) else -1
    spans = []
    for part in parts:
        first = character + (not _continues(part[0]))
        character += sum(not _continues(symbol) for symbol in part)
        spans.append((first, character + 1))
    return spans


def _continues(symbol: str) -> bool:
    """Whether a byte-level character stands for a byte inside a UTF-8 character (0x80 to 0xBF)."""
    return 0xA1 <= ord(symbol) <= 0xBF or 290 <= ord(symbol) <= 323
