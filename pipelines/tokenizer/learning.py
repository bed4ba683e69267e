"""The loop that all methods share: the most frequent pair becomes a token, whose string is its identity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

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
        parents: result -> the pair that made it first.
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
        self.parents: dict[int, tuple[int, int]] = {}
        self.num_pinned = len(self.tokens)
        self._special_tokens = special_tokens
        self._forbidden = {from_symbols(token) for token in special_tokens}
        self._ids = {token: len(special_tokens) + place for place, token in enumerate(symbols)}
        self._splits = splits
        self._events: list[tuple[int, int | tuple[int, ...]]] = []
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
        self.parents.setdefault(token, (left, right))
        self.merges.append((left, right, token))
        if self._splits:
            self._events.append((left, right))
        self._text.merge(left, right, token)
        return token

    def split(self, token: int, parts: Sequence[int]) -> None:
        """Replace a token everywhere by tokens that spell it."""
        self._events.append((token, tuple(parts)))
        self._text.split(token, parts)

    def tell(self, report: Report, vocab_size: int) -> None:
        """Report the size of the vocabulary now and then."""
        if len(self.merges) % _REPORT_EVERY == 0:
            report(vocab_size)

    def vocabulary(
        self, hidden: Collection[int] = (), expansions: Mapping[int, Sequence[int]] | None = None
    ) -> LearnedVocabulary:
        """What was learnt, in byte-level strings.

        Args:
            hidden: tokens that no model sees.
            expansions: what becomes of them.
        """
        strings = [*self._special_tokens, *map(to_symbols, self.tokens[len(self._special_tokens) :])]

        def named(tokens: Iterable[int]) -> tuple[str, ...]:
            return tuple(strings[token] for token in tokens)

        away = set(hidden)
        aside = sorted(away)
        seen = [token for token in range(len(strings)) if token not in away]
        # A pair can come up twice when two pairs spell the same token; the encoder knows its first rank only.
        merges = dict.fromkeys((strings[left], strings[right]) for left, right, _token in self.merges)
        events: list[Event] = [
            (strings[token], strings[other] if isinstance(other, int) else named(other))
            for token, other in self._events
        ]
        return LearnedVocabulary(
            tokens=[*named(seen), *named(aside)],
            merges=list(merges),
            scaffold_tokens=list(named(aside)),
            frequencies=dict(zip(strings, self.counts, strict=True)),
            expansions={strings[token]: list(named(parts)) for token, parts in (expansions or {}).items()},
            events=events,
        )
