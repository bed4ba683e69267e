"""Translating by beam search, and BLEU and chrF by sacrebleu (Post 2018, arXiv 1804.08771)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipelines.translation.model import padded

if TYPE_CHECKING:
    from transformers.models.marian.modeling_marian import MarianMTModel

    from pipelines.runs.job import Job
    from pipelines.tokenizer.loading import LoadedTokenizer
    from pipelines.translation.spec import DecodingSpec


def translate(
    model: MarianMTModel, tokenizer: LoadedTokenizer, sources: Sequence[list[int]], spec: DecodingSpec, job: Job
) -> list[str]:
    """A translation of every source, each one line of text, in their order."""
    model.eval()
    pad, eos = model.config.pad_token_id, tokenizer.eod_id
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    translated = [""] * len(sources)
    with torch.inference_mode(), job.progress(len(sources), "translate", "sentence") as progress:
        for first in range(0, len(order), spec.batch_size):
            places = order[first : first + spec.batch_size]
            source_BS = padded([sources[place] for place in places], pad).to(model.device)
            made_BT = model.generate(
                input_ids=source_BS,
                attention_mask=(source_BS != pad).long(),
                num_beams=spec.num_beams,
                length_penalty=spec.length_penalty,
                max_length=spec.max_length,
                do_sample=False,
                suppress_tokens=[pad],
            )
            for place, row in zip(places, made_BT.tolist(), strict=True):
                ids = row[1 : row.index(eos)] if eos in row else row[1:]
                text = tokenizer.decode([each for each in ids if each != pad])
                # One line a sentence, whatever the model wrote.
                translated[place] = " ".join(text.split())
            progress.advance(len(places))
    return translated


def score(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """BLEU and chrF of a whole test set, 0 to 100, as sacrebleu computes them by default."""
    return {
        "bleu": BLEU().corpus_score(list(hypotheses), [list(references)]).score,
        "chrf": CHRF().corpus_score(list(hypotheses), [list(references)]).score,
    }


def signatures() -> dict[str, str]:
    """sacrebleu's signatures of both scores: what makes them comparable with others'."""
    found = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        # The signature is complete once something was scored.
        metric.corpus_score(["one sentence"], [["one sentence"]])
        found[f"{name}_signature"] = str(metric.get_signature())
    return found
