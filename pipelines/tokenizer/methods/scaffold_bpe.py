"""Scaffold-BPE: byte-pair encoding whose rare intermediate tokens leave the vocabulary (Lian et al., arXiv 2404.17808).

Algorithms 1 and 2 of the paper; the choices it leaves open are listed in ``pipelines.tokenizer.scaffold``. A scaffold
still takes part in encoding and is then replaced by the shortest cover its merges give, without merging again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.tokenizer.protocol import LearnedVocabulary, Texts, byte_symbols
from pipelines.tokenizer.scaffold import expansions, learn

if TYPE_CHECKING:
    from pipelines.tokenizer.spec import TokenizerSpec


@dataclass(frozen=True)
class ScaffoldBpe:
    """Scaffold-BPE; ``scaffolding = False`` marks nothing, which is plain BPE."""

    scaffolding: bool = True

    def learn(self, texts: Texts, spec: TokenizerSpec) -> LearnedVocabulary:
        """Merge and take apart until ``vocab_size`` tokens are no scaffolds."""
        from pipelines.tokenizer.words import count_words

        alphabet = [*spec.special_tokens, *byte_symbols()]
        learned = learn(
            count_words(texts()),
            alphabet,
            spec.vocab_size,
            min_frequency=spec.min_frequency,
            scaffolding=self.scaffolding,
        )
        strings = learned.tokens
        visible = [strings[token] for token in range(len(strings)) if token not in learned.scaffolds]
        hidden = [strings[token] for token in sorted(learned.scaffolds)]
        # A pair can come up twice when two merges spell the same token; the encoder knows its first rank only.
        merges = list(dict.fromkeys((strings[a], strings[b]) for a, b, _t in learned.merges))
        return LearnedVocabulary(
            tokens=visible + hidden,
            merges=merges,
            scaffold_tokens=hidden,
            frequencies=dict(zip(strings, learned.frequencies, strict=True)),
            expansions={
                strings[token]: [strings[part] for part in parts] for token, parts in expansions(learned).items()
            },
        )
