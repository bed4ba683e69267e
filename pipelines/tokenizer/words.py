"""Counting the words (pre-tokens) of a text, split exactly as `tokenizers`' ``ByteLevel`` splits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import regex
from tokenizers import pre_tokenizers

from pipelines.tokenizer.protocol import symbol_of_byte

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def count_words(texts: Iterable[str]) -> dict[str, int]:
    """Occurrences of every word, in byte-level characters, in order of first appearance.

    ASCII text is split by a regular expression here, which is several times faster than asking the library for
    strings one by one; other text is split by the library itself, since its tables of letters may be of another
    Unicode version than ``regex``'s.
    """
    split = regex.compile(GPT2_PATTERN).findall
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain: Counter[str] = Counter()
    written: Counter[str] = Counter()
    for text in texts:
        if text.isascii():
            plain.update(split(text))
        else:
            written.update(word for word, _span in library.pre_tokenize_str(text))
    symbols = str.maketrans({chr(byte): symbol for byte, symbol in symbol_of_byte().items() if byte < 128})
    for word, count in plain.items():
        written[word.translate(symbols)] += count
    return dict(written)
