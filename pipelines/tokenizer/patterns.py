"""How text is split into words (pre-tokens) before merging, as a setting of Hugging Face `tokenizers`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

PATTERNS = {
    # Radford et al. 2019; `ByteLevel` has it built in.
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Of Llama 3's tokenizer.json: contractions in any case, numbers in threes, newlines end a run of punctuation.
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
    # Whatever stands between white space, with the one space before it.
    "whitespace": r" ?\S+|\s+(?!\S)|\s+",
    # A whole text is one word.
    "none": r"[\s\S]+",
}
"""Name -> regular expression whose matches, end to end, are the words. No text is lost between them."""


def pre_tokenizer_of(pattern: str) -> PreTokenizer:
    """The pre-tokenizer of a pattern, with bytes written in GPT-2's byte-level characters."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    if pattern == "gpt2":
        return ByteLevel(add_prefix_space=False)
    bytes_only = ByteLevel(add_prefix_space=False, use_regex=False)
    if pattern == "none":
        return bytes_only
    return Sequence([Split(Regex(PATTERNS[pattern]), "isolated"), bytes_only])


def pattern_of(tokenizer: Tokenizer) -> str | None:
    """The name of a tokenizer's pattern; None for a pre-tokenizer that is none of ours."""
    return _names().get(_state(tokenizer.pre_tokenizer)) if tokenizer.pre_tokenizer is not None else None


@cache
def _names() -> dict[bytes, str]:
    return {_state(pre_tokenizer_of(pattern)): pattern for pattern in PATTERNS}


def _state(pre_tokenizer: PreTokenizer) -> bytes:
    # trim_offsets only moves reported offsets; what is split is the same.
    state: bytes = pre_tokenizer.__getstate__()
    return state.replace(b'"trim_offsets":false', b'"trim_offsets":true')
