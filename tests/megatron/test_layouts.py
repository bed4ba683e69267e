"""The same numbers on any layout: 20 steps in one process, DP=2, EP=2 and PP=2, in float32, micro-batch fixed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.megatron.position_losses import read_position_losses

TOLERANCE = 1e-6
SCRIPT = Path(__file__).parent / "layout_job.py"
ROOT = Path(__file__).parents[2]
TWO = [
    {"name": "dense-dp2", "experts": False, "execution": {"processes": 2}},
    {"name": "dense-pp2", "experts": False, "execution": {"processes": 2, "pipeline_model_parallel_size": 2}},
    {"name": "experts-dp2", "experts": True, "execution": {"processes": 2}},
    {"name": "experts-ep2", "experts": True, "execution": {"processes": 2, "expert_model_parallel_size": 2}},
    {"name": "experts-pp2", "experts": True, "execution": {"processes": 2, "pipeline_model_parallel_size": 2}},
]
ONE = [{"name": f"{kind}-one", "experts": kind == "experts", "execution": {}} for kind in ("dense", "experts")]


@pytest.fixture(scope="module")
def runs(tokens, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("layouts")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--local-addr", "127.0.0.1"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    for launcher, jobs in (([*torchrun, *rendezvous], TWO), ([], ONE)):
        command = [sys.executable, *launcher, str(SCRIPT), str(tokens), str(out), json.dumps(jobs)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    return out


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder: Path, key: str) -> torch.Tensor:
    return torch.tensor(
        [line[key] for line in lines(folder) if key in line and "final" not in line], dtype=torch.double
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", [each["name"] for each in TWO])
def test_loss_gradient_norm_and_validation_do_not_depend_on_the_layout(runs, layout):
    one = runs / f"{layout.split('-')[0]}-one"
    losses = curve(one, "loss")
    assert len(losses) == 20
    assert losses[-1] < 0.9 * losses[0]
    for key in ("loss", "grad_norm", "val_loss"):
        expected, found = curve(one, key), curve(runs / layout, key)
        # The norm is a sum of squares over tensors of very different size: a few more roundings.
        tolerance = 5 * TOLERANCE if key == "grad_norm" else TOLERANCE
        assert ((found - expected).abs() / expected).max() <= tolerance, (key, found, expected)
    for expected, found in zip(read_position_losses(one), read_position_losses(runs / layout), strict=True):
        assert expected.counts.tolist() == found.counts.tolist()
        torch.testing.assert_close(torch.tensor(found.means), torch.tensor(expected.means), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [each["name"] for each in TWO])
def test_the_checkpoint_is_whole_and_the_same_from_any_layout(runs, layout):
    from pipelines.megatron.checkpoint import read_config, read_tensors

    one = runs / f"{layout.split('-')[0]}-one"
    assert read_config(runs / layout) == read_config(one)
    expected, found = read_tensors(one), read_tensors(runs / layout)
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-5, msg=name)


@pytest.mark.slow
def test_auxiliary_loss_and_final_metrics_do_not_depend_on_the_layout(runs):
    expected = lines(runs / "experts-one")[-1]
    assert expected["load_balancing_loss"] > 0.9
    assert expected["num_active_parameters"] == expected["num_parameters"] - 2 * 2 * 3 * 32 * 32
    for layout in ("experts-dp2", "experts-ep2", "experts-pp2"):
        assert lines(runs / layout)[-1] == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


@pytest.mark.slow
def test_the_run_record_says_what_ran(runs):
    facts = json.loads((runs / "experts-ep2" / "facts.json").read_text())
    assert facts["world_size"] == facts["expert_model_parallel_size"] == facts["data_parallel_size"] == 2
    assert facts["backend"] in ("gloo", "nccl")
    assert facts["micro_batch_size"] == 2
    assert json.loads((runs / "dense-pp2" / "facts.json").read_text())["pipeline_model_parallel_size"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("layout", [each["name"] for each in TWO])
def test_the_optimizers_moments_are_whole_and_the_same_from_any_layout(runs, layout):
    from pipelines.megatron.checkpoint import read_optimizer, read_tensors

    one = runs / f"{layout.split('-')[0]}-one"
    (step, expected), (steps, found) = (read_optimizer(each, "base") for each in (one, runs / layout))
    assert step == steps == 20
    assert list(found) == list(expected)
    names = list(read_tensors(one))
    assert list(found) == [f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq") for name in names]
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-3 * scale, msg=name)
