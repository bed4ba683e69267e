"""The loop that all methods share: the most frequent pair becomes a token, whose string is its identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipelines.tokenizer.protocol import Event, LearnedVocabulary, Report, alphabet, from_symbols, to_symbols
from pipelines.tokenizer.segmentation import Segmentation
from pipelines.tokenizer.words import Words

# The size of the vocabulary is reported after so many merges.
_REPORT_EVERY = 64


class Learner:
    """Tokens, merges and the words as they are segmented so far.

    A pair that spells a special token is never merged: text must not be able to name one.

    Attributes:
        tokens: the bytes of every token, in order of creation: special tokens, the alphabet, results of merges.
        merges: (left, right, result) in the order made.
        num_pinned: special tokens and alphabet, which every vocabulary keeps.
    """

    def __init__(
        self,
        words: Words,
        special_tokens: Sequence[str],
        symbols: Sequence[bytes] | None = None,
        *,
        splits: bool = False,
    ) -> None:
        """Begin with words cut into single bytes.

        Args:
            symbols: the alphabet; default: all bytes, in Hugging Face's order.
            splits: whether tokens will be split again.
        """
        symbols = alphabet() if symbols is None else symbols
        self.tokens = [*(token.encode() for token in special_tokens), *symbols]
        self.merges: list[tuple[int, int, int]] = []
        self.num_pinned = len(self.tokens)
        self._special_tokens = special_tokens
        self._forbidden = {from_symbols(token) for token in special_tokens}
        self._ids = {token: len(special_tokens) + place for place, token in enumerate(symbols)}
        self._text = Segmentation(words, self.tokens, splits=splits)

    @property
    def counts(self) -> list[int]:
        """Occurrences of every token in the words as they are segmented now."""
        return self._text.counts

    def head(self) -> tuple[int, int, int] | None:
        """(count, left, right) of the most frequent pair, of equals the one of smaller ids; None if none is left."""
        head = self._text.head()
        while head is not None and self.tokens[head[1]] + self.tokens[head[2]] in self._forbidden:
            self._text.pass_over()
            head = self._text.head()
        return head

    def merge(self, left: int, right: int) -> int:
        """Merge the head everywhere; returns the token it becomes, which two pairs may spell."""
        string = self.tokens[left] + self.tokens[right]
        token = self._ids.setdefault(string, len(self.tokens))
        if token == len(self.tokens):
            self.tokens.append(string)
        self.merges.append((left, right, token))
        self._text.merge(left, right, token)
        return token

    def split(self, token: int, parts: Sequence[int]) -> None:
        """Replace a token everywhere by tokens that spell it."""
        self._text.split(token, parts)

    def tell(self, report: Report, vocab_size: int) -> None:
        """Report the size of the vocabulary now and then."""
        if len(self.merges) % _REPORT_EVERY == 0:
            report(vocab_size)

    def vocabulary(
        self,
        hidden: Iterable[int] = (),
        expansions: Mapping[int, Sequence[int]] | None = None,
        events: Sequence[Event] = (),
    ) -> LearnedVocabulary:
        """What was learnt, in byte-level strings.

        Args:
            hidden: tokens that no model sees.
            expansions: what becomes of them.
            events: merges and splits in order, for methods that split.
        """
        strings = [*self._special_tokens, *map(to_symbols, self.tokens[len(self._special_tokens) :])]
        hidden = sorted(hidden)
        aside = set(hidden)
        return LearnedVocabulary(
            tokens=[string for token, string in enumerate(strings) if token not in aside]
            + [strings[token] for token in hidden],
            # A pair can come up twice when two pairs spell the same token; the encoder knows its first rank only.
            merges=list(dict.fromkeys((strings[left], strings[right]) for left, right, _token in self.merges)),
            scaffold_tokens=[strings[token] for token in hidden],
            frequencies=dict(zip(strings, self.counts, strict=True)),
            expansions={
                strings[token]: [strings[part] for part in parts] for token, parts in (expansions or {}).items()
            },
            events=list(events),
        )
