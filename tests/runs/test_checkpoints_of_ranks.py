"""Checkpoints of two ranks: written, loaded and dropped together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.damage import flip

ROOT = Path(__file__).resolve().parents[2]

TWO_RANKS = '''
"""Usage: two_ranks.py OUT LAST FAULT; both ranks add up steps, and a fault befalls one of them."""
import json, os, signal, sys
from pathlib import Path
import torch
from pipelines.runs import checkpoints as module
from pipelines.runs.checkpoint_folder import Fault
from pipelines.runs.job import Job
from pipelines.runs.ranks import leave
from pipelines.runs.verb import Execution

out, last, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo")
job = Job(out, "key", Execution(processes=2, checkpoint_seconds=1000 if fault in ("SIGTERM", "SIGUSR1") else 0))
if job.is_main:
    out.mkdir()
torch.distributed.barrier()
total = torch.zeros((), dtype=torch.int64)
write = module.write_rank

def full(folder, rank, tensors, facts):
    if int(total) == 2 * 3 + job.rank and job.rank == 1 and fault == "full":
        raise Fault("cannot write: No space left on device")
    return write(folder, rank, tensors, facts)

module.write_rank = full
with job.resumable() as checkpoints:
    found = checkpoints.load()
    if found:
        total = found.tensors["total"]
        assert found.facts == {"rank": job.rank}
    start = found.step if found else 0
    for step in range(start + 1, last + 1):
        total = total + 2
        if step == 1:
            total = total + job.rank
        job.log(step=step)
        if job.rank == 1 and step == 3 and fault.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, fault))
        checkpoints.after_step(step, lambda: ({"total": total}, {"rank": job.rank}))
(out / f"rank{job.rank}.json").write_text(json.dumps([start, int(total)]))
leave()
'''


@pytest.fixture
def two_ranks(tmp_path):
    """``two_ranks(last, fault)``: exit status, stderr, and what each rank began from and ended with."""
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS, encoding="utf-8")
    attempts = 0

    def run(last: int, fault: str = "none"):
        nonlocal attempts
        attempts += 1
        out = tmp_path / f"out{attempts}"
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--local-addr", "127.0.0.1"]
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        environment = {**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(ROOT)}
        environment.pop("RETRACE_CHECKPOINT_SECONDS", None)
        command = [sys.executable, *launch, str(script), str(out), str(last), fault]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        ends = [json.loads(file.read_text()) for file in sorted(out.glob("rank*.json"))]
        return done.returncode, done.stderr, ends

    return run


@pytest.mark.slow
def test_ranks_write_and_load_together(two_ranks, tmp_path):
    work = tmp_path / "work" / "key"
    assert two_ranks(4)[2] == [[0, 8], [0, 9]]
    assert sorted(each.name for each in (work / "step-4").iterdir()) == [
        "rank0.safetensors",
        "rank1.safetensors",
        "state.json",
    ]
    flip(work / "step-4" / "rank1.safetensors")
    _, messages, ends = two_ranks(5)
    assert ends == [[3, 10], [3, 11]], "what one rank cannot read, none reads"
    assert messages.count("rank1.safetensors is damaged; leaving this checkpoint out") == 1


@pytest.mark.slow
def test_a_rank_that_cannot_write_makes_all_drop_the_checkpoint(two_ranks, tmp_path):
    status, messages, ends = two_ranks(3, "full")
    assert (status, ends) == (0, [[0, 6], [0, 7]])
    assert messages.count("warning: no checkpoint after step 3 (cannot write: No space left on device)") == 1
    assert sorted(each.name for each in (tmp_path / "work" / "key").iterdir()) == ["step-1", "step-2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_signal_that_one_rank_got_first_is_obeyed_by_all_after_the_same_step(two_ranks, tmp_path, name):
    status, messages, ends = two_ranks(5, name)
    assert [each.name for each in (tmp_path / "work" / "key").iterdir()] == ["step-3"]
    if name == "SIGUSR1":
        assert (status, ends) == (0, [[0, 10], [0, 11]])
    else:
        assert status != 0
        assert ends == []
        assert messages.count("stopped by SIGTERM after step 3") == 1
    assert two_ranks(5)[2] == [[3, 10], [3, 11]]
