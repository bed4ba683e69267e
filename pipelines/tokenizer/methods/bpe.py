"""Byte-pair encoding over bytes, learnt by Hugging Face `tokenizers`.

Sennrich et al. 2016 (arXiv 1508.07909) on the byte-level alphabet of GPT-2. The baseline of every table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.tokenizer.protocol import LearnedVocabulary, Texts, byte_symbols

if TYPE_CHECKING:
    from pipelines.tokenizer.spec import TokenizerSpec


@dataclass(frozen=True)
class Bpe:
    """Plain byte-level BPE."""

    def learn(self, texts: Texts, spec: TokenizerSpec) -> LearnedVocabulary:
        """Merge the most frequent pair until ``vocab_size`` tokens exist."""
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=spec.vocab_size,
            min_frequency=spec.min_frequency,
            special_tokens=list(spec.special_tokens),
            initial_alphabet=byte_symbols(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts(), trainer)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].get)
        return LearnedVocabulary(tokens, [(left, right) for left, right in model["merges"]])
