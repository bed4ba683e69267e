"""Scaffold-BPE: byte-pair encoding whose rare intermediate tokens leave the vocabulary (Lian et al., arXiv 2404.17808).

Algorithms 1 and 2 of the paper; the choices it leaves open are listed in ``pipelines.tokenizer.scaffold``. A scaffold
still takes part in encoding and is then replaced by the shortest cover its merges give, without merging again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.tokenizer.protocol import LearnedVocabulary, Report

if TYPE_CHECKING:
    from pipelines.tokenizer.spec import TokenizerSpec
    from pipelines.tokenizer.words import Words


@dataclass(frozen=True)
class ScaffoldBpe:
    """Scaffold-BPE; ``scaffolding = False`` marks nothing, which is plain BPE."""

    scaffolding: bool = True

    def learn(self, words: Words, spec: TokenizerSpec, report: Report) -> LearnedVocabulary:
        """Merge and take apart until ``vocab_size`` tokens are no scaffolds."""
        from pipelines.tokenizer.learning import Learner
        from pipelines.tokenizer.scaffold import expansions, learn

        learner = Learner(words, spec.special_tokens)
        scaffolds = learn(
            learner, spec.vocab_size, report, min_frequency=spec.min_frequency, scaffolding=self.scaffolding
        )
        return learner.vocabulary(scaffolds, expansions(learner.tokens, learner.merges, scaffolds))
