"""Items made from held-out prose: proxies for LAMBADA, for choosing an ending, and for BLiMP.

Each builder draws its items by the seed alone. A paragraph gives at most one item of a task, and the gold answer is
at every position equally often, so that a model without a preference scores chance.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

import numpy as np

from pipelines.evaluate.formats import Row
from pipelines.evaluate.prose import Document, Paragraph, words

MIN_CLOZE_WORDS = 12
MIN_TARGET_LETTERS = 4
MAX_CONTEXT_SENTENCES = 4
NUM_CHOICES = 4
LENGTH_TOLERANCE = 0.25
SENTENCE_WORDS = range(6, 41)

# A determiner or preposition seldom fits after the word it stands before: a swap of the two breaks most sentences.
LEADING_WORDS = frozenset(
    ("a", "an", "the", "this", "these", "every", "each", "of", "to", "in", "for", "with", "by", "from", "at", "into")
)
# Words that end a sentence without needing its context.
_COMMON = """
that this these those them they then than there their with from into onto only also such some same each both more most
less least very well will when where which what have been being were does done used using example below above here
other others itself themselves following instead otherwise
"""
COMMON_WORDS = frozenset(_COMMON.split())


def cloze(documents: list[Document], rng: np.random.Generator, max_items: int | None) -> list[Row]:
    """LAMBADA-like: guess the last word, which the context before it has used.

    Paperno et al. 2016 (arXiv:1606.06031) choose passages people can finish from the whole context only; here the last
    word has at least four letters, is no function word, and occurs before, but not directly before.
    """
    return _draw(documents, rng, max_items, _cloze_item)


def next_sentence(documents: list[Document], rng: np.random.Generator, max_items: int | None) -> list[Row]:
    """Choose the sentence that follows, among four: the others are from other modules, and about as long in bytes."""
    pool = sorted(
        {(len(s.encode()), s, d.id) for d in documents for p in d.paragraphs for s in p if _plain(s)},
    )
    lengths = [length for length, _, _ in pool]
    once = _occurs_once(pool)

    def item(paragraph: Paragraph, document: Document, rng: np.random.Generator) -> Row | None:
        ends = [i for i in range(1, len(paragraph)) if _plain(paragraph[i]) and paragraph[i] in once]
        if not ends:
            return None
        end = int(rng.choice(ends))
        gold, context = paragraph[end], " ".join(paragraph[max(0, end - MAX_CONTEXT_SENTENCES) : end])
        length = len(gold.encode())
        low = bisect_left(lengths, length * (1 - LENGTH_TOLERANCE))
        high = bisect_right(lengths, length * (1 + LENGTH_TOLERANCE))
        others: dict[str, str] = {}  # module -> sentence: no two distractors from one module
        for i in low + rng.permutation(high - low):
            _, sentence, module = pool[int(i)]
            if module != document.id and sentence not in context and sentence not in others.values():
                others.setdefault(module, sentence)
            if len(others) == NUM_CHOICES - 1:
                return {"query": context, "choices": [gold, *others.values()], "gold": 0}
        return None

    return _place_gold(_draw(documents, rng, max_items, item), rng)


def word_order(documents: list[Document], rng: np.random.Generator, max_items: int | None) -> list[Row]:
    """BLiMP-like minimal pair: a sentence against itself with two neighbouring words swapped.

    Warstadt et al. 2020 (arXiv:1912.00582) compare whole sentences; here the swapped pair is a determiner or
    preposition and the word after it, so both sentences hold the same words and bytes.
    """
    return _place_gold(_draw(documents, rng, max_items, _word_order_item), rng)


PROXIES: dict[str, tuple[str, Callable[[list[Document], np.random.Generator, int | None], list[Row]]]] = {
    "cloze_proxy": ("cloze", cloze),
    "next_sentence_proxy": ("multiple_choice", next_sentence),
    "word_order_proxy": ("minimal_pair", word_order),
}
"""Task -> its format and its builder."""

_Item = Callable[[Paragraph, Document, np.random.Generator], Row | None]


def _draw(documents: list[Document], rng: np.random.Generator, max_items: int | None, item: _Item) -> list[Row]:
    """Visit the paragraphs in a drawn order until there are enough items; equal items count once."""
    places = [(document, paragraph) for document in documents for paragraph in document.paragraphs]
    rows: list[Row] = []
    found: set[tuple[str, ...]] = set()
    for place in rng.permutation(len(places)):
        if max_items is not None and len(rows) == max_items:
            break
        document, paragraph = places[int(place)]
        row = item(paragraph, document, rng)
        if row is None:
            continue
        identity = (row.get("query") or row.get("context") or row["choices"][0],)
        if identity not in found:
            found.add(identity)
            rows.append({**row, "id": document.id, "domain": document.domain})
    return rows


def _place_gold(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    """Move the gold choice, first so far, so that every position holds it equally often (up to one)."""
    positions = rng.permutation(len(rows))
    placed = []
    for row, position in zip(rows, positions, strict=True):
        gold, *others = row["choices"]
        index = int(position) % len(row["choices"])
        placed.append({**row, "choices": [*others[:index], gold, *others[index:]], "gold": index})
    return placed


def _cloze_item(paragraph: Paragraph, document: Document, rng: np.random.Generator) -> Row | None:
    fits = []
    for end in range(1, len(paragraph) + 1):
        passage = " ".join(paragraph[max(0, end - MAX_CONTEXT_SENTENCES) : end])
        context, _, last = passage.rstrip(".!?").rpartition(" ")
        before = [each.casefold() for each in words(context)]
        target = last.casefold()
        if (
            last.isalpha()
            and last.isascii()
            and len(last) >= MIN_TARGET_LETTERS
            and target not in COMMON_WORDS
            and len(before) >= MIN_CLOZE_WORDS
            and target in before[:-1]
            and target != before[-1]
        ):
            fits.append({"context": context, "target": last})
    return fits[int(rng.integers(len(fits)))] if fits else None


def _word_order_item(paragraph: Paragraph, document: Document, rng: np.random.Generator) -> Row | None:
    swaps = list(_swaps(paragraph))
    if not swaps:
        return None
    sentence, i = swaps[int(rng.integers(len(swaps)))]
    parts = sentence.split(" ")
    parts[i], parts[i + 1] = parts[i + 1], parts[i]
    return {"choices": [sentence, " ".join(parts)], "gold": 0}


def _swaps(paragraph: Paragraph) -> Iterator[tuple[str, int]]:
    """(sentence, index of the word to swap with its right neighbour); never the first or the last word."""
    for sentence in paragraph:
        if not _plain(sentence):
            continue
        parts = sentence.split(" ")
        for i in range(1, len(parts) - 2):
            follower = parts[i + 1]
            leads = parts[i] in LEADING_WORDS and follower not in LEADING_WORDS
            if leads and follower.isalpha() and follower.islower():
                yield sentence, i


def _plain(sentence: str) -> bool:
    return len(sentence.split(" ")) in SENTENCE_WORDS and sentence[0].isupper() and sentence[-1] in ".!?"


def _occurs_once(pool: list[tuple[int, str, str]]) -> frozenset[str]:
    """Sentences of one module only: what follows elsewhere too is no distinctive continuation."""
    modules: dict[str, set[str]] = {}
    for _, sentence, module in pool:
        modules.setdefault(sentence, set()).add(module)
    return frozenset(sentence for sentence, where in modules.items() if len(where) == 1)
