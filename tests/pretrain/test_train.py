import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.megatron.indexed import write_documents

ROOT = Path(__file__).parents[2]
SPEC = {
    "model": {
        "num_layers": 2,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "seq_length": 16,
    },
    "training": {"train_iters": 6, "global_batch_size": 4, "lr": 0.01, "log_interval": 2},
    "seed": 0,
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tokens"
    folder.mkdir()
    generator = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 20), ("validation", 3)):
        documents = [np.array([*np.repeat(generator.integers(1, 40, 20), 2), 0]) for _ in range(count)]
        num, tokens = write_documents(folder / name, documents, 40)
        splits[name] = {"num_tokens": tokens, "num_bytes": 100 * num, "num_documents": num}
    facts = {"vocab_size": 40, "eod_id": 0, "splits": splits, "tokenizer_key": "t"}
    (folder / "tokens.json").write_text(json.dumps(facts))
    return folder


def pretrain(tokens, out, execution=None, **changes):
    spec = {**SPEC, **changes}
    command = [sys.executable, "-m", "pipelines", "pretrain", "train", "--spec", json.dumps(spec)]
    command += ["--exec", json.dumps(execution or {}), "--tokens", str(tokens), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RETRACE_WORK": str(out.parent / "work")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_two_ranks_started_by_the_command_line_train_and_leave_one_artifact(tokens, tmp_path):
    done = pretrain(tokens, tmp_path / "run", {"processes": 2})
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["world_size"] == record["data_parallel_size"] == 2
    assert record["backend"] in ("gloo", "nccl")
    assert {"torch", "megatron-core"} == set(record["versions"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    final = lines[-1]
    assert final["final"] is True
    assert {"train_loss", "val_loss", "val_bits_per_byte", "tokens", "flops", "num_parameters"} <= set(final)
    assert record["tokens"] == final["tokens"] == 6 * 4 * 16
    # Nothing but our own progress lines and torchrun's notes: no warning of a missing GPU package.
    assert "Apex" not in done.stderr + done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("execution", [{}, {"pipeline_model_parallel_size": 2}], ids=["dp2", "pp2"])
def test_factors_train_to_the_same_numbers_on_any_layout_and_their_support_is_one(tokens, tmp_path, execution):
    from pipelines.megatron.checkpoint import read_factors, read_tensors

    method = {"name": "sltrain", "rank": 5, "density": 0.1}
    training = {**SPEC["training"], "precision": "fp32"}
    for name, layout in (("one", {}), ("two", {"processes": 2, **execution})):
        done = pretrain(tokens, tmp_path / name, layout, method=method, training=training)
        assert done.returncode == 0, done.stderr[-3000:]
    final = [json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[-1]) for n in ("one", "two")]
    assert final[1] == {key: pytest.approx(value, rel=1e-5) for key, value in final[0].items()}
    for read in (read_tensors, read_factors):
        one, two = read(tmp_path / "one"), read(tmp_path / "two")
        assert list(one) == list(two)
        for key in one:
            exact = key.endswith("sparse_indices")
            assert exact == (one[key].dtype == torch.int64)
            tolerance = 0 if exact else 2e-5
            torch.testing.assert_close(two[key], one[key], rtol=0, atol=tolerance, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("execution", "changes", "message"),
    [
        ({"tensor_model_parallel_size": 2, "processes": 2}, {}, "tensor parallelism is not supported"),
        ({}, {"method": {"name": "sltrain"}}, "pretrain.sltrain.rank is missing"),
        ({}, {"method": {"name": "low_rank", "rank": 40}}, "method.rank 40 exceeds 16"),
        ({"micro_batch_size": 3}, {}, "micro_batch_size 3 does not divide the 4"),
        ({}, {"model": {**SPEC["model"], "hidden_size": 30}}, "not divisible by num_attention_heads 4"),
        ({}, {"model": {**SPEC["model"], "seq_length": 5000}}, "fewer than one sequence"),
        ({}, {"training": {**SPEC["training"], "min_lr": 1.0}}, "min_lr 1.0 exceeds lr"),
        ({}, {"training": {**SPEC["training"], "learning_rate": 1.0}}, "unknown key training.learning_rate"),
    ],
)
def test_bad_input_is_one_line_before_training_and_leaves_nothing(tokens, tmp_path, execution, changes, message):
    done = pretrain(tokens, tmp_path / "run", execution, **changes)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    # Jobs lock each other out beside their work folders; of this one nothing is in there.
    assert [each for each in tmp_path.rglob("*") if each != tmp_path / "work"] == []
