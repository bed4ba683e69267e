"""The loss by position that every training leaves: against plain cross entropy, and against what was logged."""

from __future__ import annotations

import json
import math
import sys
from contextlib import closing

import numpy as np
import pytest
from torch.nn import functional

from pipelines.megatron.position_losses import (
    POSITION_LOSSES,
    Evaluation,
    pack,
    read_position_losses,
    unpack,
    write_position_losses,
)
from pipelines.megatron.spec import ModelSpec, TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.runs.verb import Execution

MODEL = ModelSpec(
    num_layers=1, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)


@pytest.fixture(scope="module", autouse=True)
def _leave_no_process_group():
    yield
    from pipelines.megatron import backend

    backend.shutdown()


def train(tokens, out, execution=None, **options):
    from pipelines.megatron.training import train

    given = {"train_iters": 6, "global_batch_size": 4, "lr": 0.01, "precision": "fp32", "eval_interval": 2, **options}
    out.mkdir()
    with closing(Job(out, "key", Execution(**(execution or {})))) as job:
        final = train(MODEL, None, TrainingSpec(**given), 0, tokens, job)
    return final, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_positions_average_to_the_logged_validation_loss_exactly_at_every_evaluation(tokens, tmp_path):
    final, lines = train(tokens, tmp_path / "run", lr_warmup_iters=2)
    logged = [line for line in lines if "val_loss" in line]
    evaluations = read_position_losses(tmp_path / "run")
    assert [each.step for each in evaluations] == [line["step"] for line in logged] == [2, 4, 6]
    assert [each.tokens for each in evaluations] == [line["tokens"] for line in logged]
    assert [each.loss for each in evaluations] == [line["val_loss"] for line in logged]
    assert evaluations[-1].loss == final["val_loss"]
    # 6 documents of 71 tokens, in windows of 16: the last window is not full.
    assert evaluations[0].counts.tolist() == [27] * (6 * 71 % 16) + [26] * (16 - 6 * 71 % 16)
    assert evaluations[0].lr == pytest.approx(0.01)
    assert evaluations[-1].lr == pytest.approx(0.0, abs=1e-9)


def test_each_position_is_plain_cross_entropy_of_the_checkpoint(tokens, tmp_path):
    from pipelines.megatron.checkpoint import read_tensors
    from pipelines.megatron.data import evaluation_windows, open_tokens
    from pipelines.megatron.model import build_model

    train(tokens, tmp_path / "run")
    last = read_position_losses(tmp_path / "run")[-1]
    model = build_model(MODEL, 96, initial=read_tensors(tmp_path / "run"))
    text = evaluation_windows(open_tokens(tokens), 16)
    losses = functional.cross_entropy(
        model(text.inputs).flatten(0, 1), text.labels.flatten(), reduction="none", ignore_index=-100
    ).view(text.labels.shape)
    for position in range(16):
        column = losses[:, position][text.labels[:, position] != -100].double()
        assert last.means[position] == pytest.approx(column.mean().item(), rel=1e-5)
        assert last.standard_errors[position] == pytest.approx(column.std().item() / math.sqrt(len(column)), rel=1e-4)


def test_a_smaller_interim_text_leaves_the_last_evaluation_and_the_training_as_they_were(tokens, tmp_path):
    plain, _ = train(tokens, tmp_path / "plain", eval_interval=None)
    final, lines = train(tokens, tmp_path / "interim", interim_eval_tokens=150)
    assert final == plain
    assert [line["step"] for line in lines if "val_loss" in line] == [6]
    assert [line["step"] for line in lines if "interim_val_loss" in line] == [2, 4, 6]
    evaluations = read_position_losses(tmp_path / "interim")
    assert [each.step for each in evaluations] == [2, 4, 6, 6]
    assert [int(each.counts.sum()) for each in evaluations] == [142, 142, 142, 426]
    assert [each.loss for each in evaluations[:3]] == [
        line["interim_val_loss"] for line in lines if "interim_val_loss" in line
    ]
    (whole,) = read_position_losses(tmp_path / "plain")
    assert np.array_equal(whole.nats, evaluations[-1].nats)


def test_the_positions_do_not_depend_on_the_micro_batch(tokens, tmp_path):
    found = []
    for size in (1, 4):
        train(tokens, tmp_path / str(size), {"micro_batch_size": size}, train_iters=2)
        found.append(read_position_losses(tmp_path / str(size))[-1])
    np.testing.assert_allclose(found[0].nats, found[1].nats, rtol=1e-5)


def test_the_file_holds_every_evaluation_to_the_bit_and_the_same_bytes_each_time(tmp_path):
    generator = np.random.default_rng(0)
    evaluations = [
        Evaluation(step, step * 64, 1 / step, generator.integers(1, 9, 5), *generator.normal(size=(2, 5)))
        for step in (1, 2, 3)
    ]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_position_losses(tmp_path / name, evaluations)
    assert (tmp_path / "one" / POSITION_LOSSES).read_bytes() == (tmp_path / "two" / POSITION_LOSSES).read_bytes()
    read = pack(read_position_losses(tmp_path / "one"))
    for name, array in pack(evaluations).items():
        assert np.array_equal(read[name], array), name
    assert pack(unpack(read)).keys() == read.keys()


def test_a_position_seen_once_has_no_standard_error_and_one_never_seen_no_mean():
    one = Evaluation(1, 1, 0.1, np.array([2, 1, 0]), np.array([4.0, 3.0, 0.0]), np.array([10.0, 9.0, 0.0]))
    assert one.means[:2].tolist() == [2.0, 3.0]
    assert one.standard_errors[0] == pytest.approx(1.0)
    assert np.isnan([one.means[2], *one.standard_errors[1:]]).all()


def test_a_folder_without_the_file_or_with_a_damaged_one_is_refused_by_name(tmp_path):
    with pytest.raises(RetraceError, match="is missing: give a folder"):
        read_position_losses(tmp_path)
    (tmp_path / POSITION_LOSSES).write_bytes(b"PK\x03\x04")
    with pytest.raises(RetraceError, match=r"is damaged .*train the model again"):
        read_position_losses(tmp_path)


def test_reading_the_file_imports_no_torch():
    import subprocess

    code = "import sys, pipelines.megatron.position_losses; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
