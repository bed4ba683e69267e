"""Translation models: they learn, every tokenizer sees the same batches, and a killed run ends in the same bits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import read_record
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.translation.model import IGNORED, logits_of, make_model
from pipelines.translation.pairs import read_pairs
from pipelines.translation.scoring import score, signatures
from pipelines.translation.spec import EncoderDecoderSpec
from pipelines.translation.steps import Training, batches, encode
from pipelines.translation.training import inverse_root

SPEC = {
    "model": {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 2},
    "training": {"epochs": 1, "batch_size": 16, "lr_warmup_iters": 2, "log_interval": 3},
    "decoding": {"num_beams": 2, "max_length": 24},
}


def longer(**training: float) -> dict:
    return {**SPEC, "training": {**SPEC["training"], **training}}


def test_a_tiny_model_learns_a_tiny_language(pairs: Path, tokenizer: Path, run_verb, tmp_path: Path) -> None:
    spec = longer(epochs=40, lr=0.01, lr_warmup_iters=20)
    final = run_verb("train", spec, tmp_path / "out", pairs=pairs, tokenizer=tokenizer)
    assert final["bleu"] > 60
    assert final["chrf"] > 60
    lines = (tmp_path / "out" / "translations.txt").read_text(encoding="utf-8").splitlines()
    references = [target for _, target in read_pairs(pairs, "test")]
    assert score(lines, references)["bleu"] == final["bleu"]
    assert read_record(tmp_path / "out")["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("steps_before_the_kill", [1, 4, 7])
def test_a_killed_run_goes_on_to_the_same_bits(
    pairs: Path, tokenizer: Path, run_verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_before_the_kill: int
) -> None:
    inputs = {"pairs": pairs, "tokenizer": tokenizer}
    # Two epochs of four steps, one of them with an evaluation; a seed of its own leaves no checkpoint to other tests.
    spec = {**longer(epochs=2), "seed": steps_before_the_kill}
    run_verb("train", spec, tmp_path / "whole", **inputs)

    whole_step, done = Training._step, []

    def dying(self: Training, step: int, places: list[int]) -> float:
        if len(done) == steps_before_the_kill:
            raise KeyboardInterrupt
        done.append(step)
        return whole_step(self, step, places)

    monkeypatch.setattr(Training, "_step", dying)
    often = {"checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        run_verb("train", spec, tmp_path / "killed", often, **inputs)

    def counting(self: Training, step: int, places: list[int]) -> float:
        done.append(step)
        return whole_step(self, step, places)

    monkeypatch.setattr(Training, "_step", counting)
    run_verb("train", spec, tmp_path / "killed", often, **inputs)
    assert done == list(range(1, 9)), "no step is done twice"
    assert read_record(tmp_path / "killed")["resumed_from_step"] == steps_before_the_kill
    for name in ("metrics.jsonl", "translations.txt", "model/model.safetensors", "model/config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_batches_hold_every_pair_once_are_of_like_length_and_know_of_no_tokenizer(pairs: Path) -> None:
    found = read_pairs(pairs, "train")
    epochs = [batches(found, 10, 3, epoch) for epoch in (0, 1)]
    for epoch in epochs:
        assert sorted(place for batch in epoch for place in batch) == list(range(len(found)))
        assert max(map(len, epoch)) == 10
    assert epochs[0] != epochs[1]
    assert epochs[0] == batches(found, 10, 3, 0)
    lengths = [len("".join(pair)) for pair in found]
    spreads = [max(each) - min(each) for each in ([lengths[place] for place in batch] for batch in epochs[0])]
    assert sum(spreads) / len(spreads) < (max(lengths) - min(lengths)) / 2


def test_the_loss_is_that_of_each_sentence_by_itself_whatever_is_padded(pairs: Path, tokenizer: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    encoded = encode(loaded, read_pairs(pairs, "train")[:20])
    assert all(source[-1] == target[-1] == loaded.eod_id for source, target in encoded)
    torch.manual_seed(0)
    shape = EncoderDecoderSpec.model_validate({**SPEC["model"], "dropout": 0.0})
    model = make_model(shape, loaded.vocab_size, loaded.eod_id, 64).double().eval()
    sources, targets = zip(*encoded, strict=True)
    with torch.no_grad():
        logits, labels = logits_of(model, sources, targets)
        for row, (source, target) in enumerate(encoded):
            alone, _ = logits_of(model, [source], [target])
            assert torch.allclose(logits[row, : len(target)], alone[0], atol=1e-9)
            assert labels[row, : len(target)].tolist() == target
            assert (labels[row, len(target) :] == IGNORED).all()


def test_validation_bits_are_the_nats_over_the_bytes(pairs: Path, tokenizer: Path, run_verb, tmp_path: Path) -> None:
    final = run_verb("train", SPEC, tmp_path / "out", pairs=pairs, tokenizer=tokenizer)
    loaded = load_tokenizer(tokenizer)
    targets = [target for _, target in read_pairs(pairs, "validation")]
    tokens = sum(len(loaded.encode(target)) + 1 for target in targets)
    size = sum(len(target.encode()) for target in targets)
    assert final["val_bits_per_byte"] == pytest.approx(final["val_loss"] * tokens / math.log(2) / size)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 4]


def test_the_rate_rises_to_its_peak_and_falls_with_the_root() -> None:
    rates = [inverse_root(step, 0.5, 4) for step in (1, 4, 16)]
    assert rates == [0.125, 0.5, 0.25]


def test_scores_are_sacrebleus() -> None:
    same = ["A dog runs over the green field .", "Two men sit on a bench ."]
    assert score(same, same) == {"bleu": pytest.approx(100.0), "chrf": pytest.approx(100.0)}
    assert score(["a", "b"], same)["bleu"] < 1
    assert signatures()["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0")


def test_more_than_one_process_is_refused(pairs: Path, tokenizer: Path, run_verb, tmp_path: Path) -> None:
    with pytest.raises(RetraceError, match="translation runs in one process"):
        run_verb("train", SPEC, tmp_path / "out", {"processes": 2}, pairs=pairs, tokenizer=tokenizer)


def test_multi30k_is_read_whole(shared_data: Path, run_verb, tmp_path: Path) -> None:
    counts = run_verb("pairs", {}, tmp_path / "out", folder=shared_data / "mt")
    assert counts["num_train_pairs"] == 29_000
    assert (counts["num_validation_pairs"], counts["num_test_pairs"]) == (1014, 1000)
