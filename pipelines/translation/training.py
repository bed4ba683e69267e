"""``translation train``: an encoder-decoder from random weights, scored by BLEU and chrF on the test pairs.

Every tokenizer sees the same pairs in the same batches and for the same number of steps: batches are made of
sentences of like length in bytes, not in tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pipelines.runs.devices import choose_device, prepare_cpu
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.translation.pairs import read_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.runs.job import Job
    from pipelines.translation.spec import TrainSpec


def train(spec: TrainSpec, inputs: dict[str, Path], job: Job) -> dict[str, Any]:
    """Train, translate the test sentences, and write ``model/`` and ``translations.txt``.

    Returns:
        bleu, chrf: of the whole test set, 0 to 100, by sacrebleu, whose signatures are in run.json.
        val_loss: nats a target token, the end of the sentence included, without smoothing.
        val_bits_per_byte: the same sum in bits, over the bytes of the target sentences.
        train_loss: smoothed cross-entropy of a target token over the last logged steps.
        tokens: target tokens trained on. num_parameters: trained numbers of the model.

    Raises:
        RetraceError: pairs or tokenizer are missing or damaged.
    """
    splits = {split: read_pairs(inputs["pairs"], split) for split in ("train", "validation", "test")}
    tokenizer = load_tokenizer(inputs["tokenizer"])

    import torch

    from pipelines.translation.model import make_model
    from pipelines.translation.scoring import score, signatures, translate
    from pipelines.translation.steps import Training, encode

    prepare_cpu(job.execution.threads)
    encoded = {split: encode(tokenizer, pairs) for split, pairs in splits.items()}
    longest = max(len(side) for pairs in encoded.values() for pair in pairs for side in pair)
    torch.manual_seed(spec.seed)
    # One more than the longest: what is read after the start that a translation begins with.
    model = make_model(spec.model, tokenizer.vocab_size, tokenizer.eod_id, max(longest, spec.decoding.max_length) + 1)
    model.to(choose_device(job.execution.device))
    training = Training(spec.training, spec.seed, model, splits["train"], encoded["train"], job)
    target_bytes = sum(len(target.encode()) for _, target in splits["validation"])
    training.run(encoded["validation"], target_bytes)

    hypotheses = translate(model, tokenizer, [source for source, _ in encoded["test"]], spec.decoding, job)
    (job.out / "translations.txt").write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
    model.save_pretrained(job.out / "model")
    job.record(tokens=training.tokens, num_cut_pairs=training.num_cut, **signatures())
    return {
        **score(hypotheses, [target for _, target in splits["test"]]),
        **training.validation,
        "train_loss": training.loss,
        "tokens": training.tokens,
        "num_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
    }


def inverse_root(step: int, lr: float, warmup: int) -> float:
    """The learning rate of step k from 1: linear up to ``lr`` at the warm-up's end, then falling with sqrt(k).

    Vaswani et al. 2017, equation 3, with its scale given as the highest rate.
    """
    return lr * min(step / warmup, math.sqrt(warmup / step))
