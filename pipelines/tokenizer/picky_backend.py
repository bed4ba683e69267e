"""PickyBPE behind the face of a `tokenizers.Tokenizer`: Rust parts the text into words and bytes, Python does the rest.

This file is also copied into tokenizer folders, so it imports nothing of the package by its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from .expanded_encoding import ExpandedEncoding, Places, WholeEncoding
from .expansion import ExpansionTable, read_expansions
from .picky_encoding import PickyEncoder
from .scaffold_backend import ScaffoldBackend, read_encoder


class PickyBackend(ScaffoldBackend):
    """A backend whose words are encoded by replaying merges and splits.

    Args:
        tokenizer: the encoder of tokenizer.json.
        table: of the tokens that were removed; no text is ever encoded with one.
        picky: the words' encoder.
    """

    def __init__(self, tokenizer: Tokenizer, table: ExpansionTable, picky: PickyEncoder) -> None:
        state = json.loads(tokenizer.to_str())
        self.merges = state["model"]["merges"]
        # Without merges every byte of a text is a token, with its word and its place.
        state["model"]["merges"] = []
        super().__init__(Tokenizer.from_str(json.dumps(state)), table)
        self.picky = picky

    def to_str(self, pretty: bool = False) -> str:
        """The text of tokenizer.json."""
        state = json.loads(self.tokenizer.to_str())
        state["model"]["merges"] = self.merges
        # A round trip through Rust, so that the text is formatted as it formats all others.
        text: str = Tokenizer.from_str(json.dumps(state)).to_str(pretty)
        return text

    def save(self, path: str, pretty: bool = True) -> None:
        """Write tokenizer.json."""
        Path(path).write_text(self.to_str(pretty), encoding="utf-8")

    def whole(self, encoding: Encoding, is_pretokenized: bool) -> WholeEncoding:
        """An encoding of bytes with the ids a model sees."""
        return _PickyWhole(encoding, self, is_pretokenized)

    def expanded(self, encoding: Encoding, is_pretokenized: bool) -> Any:
        """The same as it is given out."""
        whole = self.whole(encoding, is_pretokenized)
        return ExpandedEncoding(whole, whole.windows(None), 0, None)

    def encode_words(self, symbols: str, is_pretokenized: bool) -> list[int]:
        """Ids of a word in byte-level characters, or of what a caller takes for a word."""
        words = [symbols]
        if is_pretokenized:
            words = [word for word, _span in self.pre_tokenizer.pre_tokenize_str(self.decoder.decode(words))]
        return [each for word in words for each in self.picky.encode_word(word)]


class _PickyWhole(WholeEncoding):
    """An encoding of bytes, grouped to tokens; ``source`` is the first byte of each, ``last`` its last."""

    def __init__(self, encoding: Encoding, backend: PickyBackend, is_pretokenized: bool) -> None:
        self.encoding = encoding
        self.backend = backend
        added = backend.tokenizer.get_added_tokens_decoder()
        # Rust makes a list anew at every reading. Not by `whole_list`: the bytes' tokens are not to be kept.
        own, tokens = encoding.ids, encoding.tokens
        words = list(zip(encoding.sequence_ids, encoding.word_ids, strict=True))
        ids: list[int] = []
        lengths: list[int] = []
        place = 0
        while place < len(own):
            end = place + 1
            if words[place][0] is None or own[place] in added:
                # A template puts in the ids that the outside knows.
                outer = own[place] if words[place][0] is None else backend.outer(own[place])
                assert outer is not None
                made = [outer]
                lengths.append(1)
            else:
                while end < len(own) and words[end] == words[place] and own[end] not in added:
                    end += 1
                made = backend.encode_words("".join(tokens[place:end]), is_pretokenized)
                lengths += [len(str(backend.id_to_token(each))) for each in made]
            ids += made
            place = end
        self.ids = np.array(ids, dtype=np.int32)
        self.last = np.cumsum(lengths, dtype=np.int64) - 1
        self.source = self.last + 1 - np.array(lengths, dtype=np.int64)

    def column(self, name: str, places: Places) -> list[Any]:
        """One list of the encoding, at the given places among the tokens."""
        if name == "tokens":
            return [self.backend.id_to_token(each) for each in self.ids[places].tolist()]
        if name == "offsets":
            spans = self.whole_list("offsets")
            ends = zip(self.source[places].tolist(), self.last[places].tolist(), strict=True)
            return [(spans[first][0], spans[last][1]) for first, last in ends]
        return super().column(name, places)


def read_picky_backend(tokenizer_file: Path, picky_file: Path, /) -> PickyBackend:
    """Open the two files of a PickyBPE tokenizer.

    Raises:
        ValueError: one of them is missing, damaged or does not fit the other; the message names it.
    """
    tokenizer = read_encoder(tokenizer_file)
    return PickyBackend(tokenizer, *read_picky(picky_file, tokenizer))


def read_picky(file: Path, tokenizer: Tokenizer) -> tuple[ExpansionTable, PickyEncoder]:
    """The removed tokens and the words' encoder of a ``picky.json``.

    Raises:
        ValueError: it is damaged or belongs to another encoder; the message names it.
    """
    table, body = read_expansions(file, tokenizer, "removed_tokens")
    try:
        for token, other in body["events"]:
            if not isinstance(other, str) and "".join(other) != token:
                raise ValueError(f"{token!r} is split into what spells something else")
        return table, PickyEncoder(tokenizer.get_vocab(), body["events"])
    except (ValueError, KeyError, TypeError) as broken:
        raise ValueError(
            f"{file} is damaged or belongs to another tokenizer.json ({broken}): train the tokenizer again"
        ) from None
