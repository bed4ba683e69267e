"""Jobs of the command line, really killed: one process and two ranks, at a moment nobody chose."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "seq_length": 16,
}
TRAINING = {
    "train_iters": 100,
    "global_batch_size": 8,
    "lr": 0.01,
    "log_interval": 3,
    "eval_interval": 7,
    "eval_tokens": 100,
}
EXPERTS = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 16}
COMMON = {"model": MODEL, "training": TRAINING, "seed": 1}
MOE = {**COMMON, "experts": EXPERTS, "micro_batch_size": 2}
JOBS = {
    "dense": (("pretrain", "train"), COMMON, {}),
    "dense_dp2": (("pretrain", "train"), COMMON, {"processes": 2}),
    "dense_pp2": (("pretrain", "train"), COMMON, {"processes": 2, "pipeline_model_parallel_size": 2}),
    "grown": (("growth", "train"), {**COMMON, "method": {"name": "scratch"}}, {}),
    "rmoe_ep2": (
        ("moe", "train"),
        {**MOE, "method": {"name": "rmoe", "recurrent_size": 8}},
        {"processes": 2, "expert_model_parallel_size": 2},
    ),
}


class Attempts:
    """Attempts at one job, each in a process of its own; they share the work folder."""

    def __init__(self, kind: str, tokens: Path, folder: Path) -> None:
        self.folder, self.work, self.log, self.count = folder, folder / "work", folder / "log", 0
        verb, spec, execution = JOBS[kind]
        self.command = [sys.executable, "-m", "pipelines", *verb, "--spec", json.dumps(spec)]
        self.command += ["--exec", json.dumps(execution), "--tokens", str(tokens)]

    def start(self, checkpoint_seconds: float = 0) -> subprocess.Popen[bytes]:
        self.count += 1
        self.out = self.folder / f"out{self.count}"
        settings = {"RETRACE_WORK": str(self.work), "RETRACE_STORE": "off", "OMP_NUM_THREADS": "1"}
        settings["RETRACE_CHECKPOINT_SECONDS"] = str(checkpoint_seconds)
        command = [*self.command, "--out", str(self.out)]
        # A pipe nobody reads would be one more thing that can go wrong.
        with self.log.open("w") as log:
            return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stderr=log)

    def finish(self) -> dict[str, bytes]:
        """Run to the end; every file of the artifact but its record."""
        job = self.start(checkpoint_seconds=1000)
        assert job.wait(timeout=300) == 0, self.messages
        assert not list(self.work.glob("*/step-*")), "checkpoints of a finished job are of no use"
        return {file.name: file.read_bytes() for file in sorted(self.out.iterdir()) if file.name != "run.json"}

    @property
    def messages(self) -> str:
        return self.log.read_text()

    @property
    def record(self) -> dict:
        return json.loads((self.out / "run.json").read_text())

    def steps(self) -> list[int]:
        names = [folder.name.removeprefix("step-") for folder in self.work.glob("*/step-*")]
        return sorted(int(each) for each in names if each.isdecimal())

    def logged(self) -> int:
        unfinished = self.folder.glob(f".{self.out.name}.*partial/metrics.jsonl")
        return sum(len(metrics.read_text().splitlines()) for metrics in unfinished)


@pytest.fixture(scope="module")
def undisturbed(tokens, tmp_path_factory):
    """``undisturbed(kind)``: the artifact of a job that nobody killed."""
    made: dict[str, dict[str, bytes]] = {}

    def undisturbed(kind):
        if kind not in made:
            made[kind] = Attempts(kind, tokens, tmp_path_factory.mktemp(kind)).finish()
        return made[kind]

    return undisturbed


@pytest.fixture
def attempts(tokens, tmp_path):
    started: list[Attempts] = []

    def attempts(kind):
        started.append(Attempts(kind, tokens, tmp_path))
        return started[-1]

    return attempts


def wait_until(condition: Callable[[], bool], job: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def end(job: subprocess.Popen[bytes], number: signal.Signals) -> None:
    job.send_signal(number)
    job.wait(timeout=60)


def ranks_of(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return sorted(psutil.Process(job.pid).children(), key=lambda rank: int(rank.environ()["RANK"]))


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert found[name] == content, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "grown"])
def test_sigkill_twice_and_run_again(attempts, undisturbed, kind):
    tries = attempts(kind)
    for _ in range(2):
        before = max(tries.steps(), default=0)
        job = tries.start()
        wait_until(lambda: max(tries.steps(), default=0) >= before + 10, job)  # noqa: B023 (called at once)
        end(job, signal.SIGKILL)
    last = max(tries.steps())
    assert_same(tries.finish(), undisturbed(kind))
    assert 20 <= tries.record["resumed_from_step"] == last < 100


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_where_none_was_due(attempts, undisturbed):
    tries = attempts("dense")
    job = tries.start(checkpoint_seconds=1000)
    wait_until(lambda: tries.logged() > 3, job)
    end(job, signal.SIGTERM)
    assert job.returncode == 143
    (step,) = tries.steps()
    assert f"stopped by SIGTERM after step {step}: run the same command again" in tries.messages
    assert list(tries.folder.glob("*out*")) == [], "neither an artifact nor a part of one"
    assert_same(tries.finish(), undisturbed("dense"))
    assert tries.record["resumed_from_step"] == step
    assert tries.record["seconds"] > 0


@pytest.mark.slow
def test_sigusr1_writes_a_checkpoint_and_the_job_goes_on(attempts, undisturbed):
    tries = attempts("dense")
    job = tries.start(checkpoint_seconds=1000)
    wait_until(lambda: tries.logged() > 3, job)
    job.send_signal(signal.SIGUSR1)
    wait_until(lambda: bool(tries.steps()), job)
    end(job, signal.SIGKILL)
    assert_same(tries.finish(), undisturbed("dense"))
    assert tries.record["resumed_from_step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rmoe_ep2", "dense_pp2", "dense_dp2"])
def test_one_rank_is_killed_and_the_job_run_again(attempts, undisturbed, kind):
    tries = attempts(kind)
    job = tries.start()
    wait_until(lambda: max(tries.steps(), default=0) >= 10, job)
    ranks = ranks_of(job)
    ranks[1].kill()
    assert job.wait(timeout=60) == 128 + signal.SIGKILL
    assert "rank 1 was ended by SIGKILL" in tries.messages
    assert not any(rank.is_running() for rank in ranks)
    assert list(tries.folder.glob("*out*")) == []
    last = max(tries.steps())
    assert_same(tries.finish(), undisturbed(kind))
    assert tries.record["resumed_from_step"] == last


@pytest.mark.slow
def test_signals_to_the_process_that_started_the_ranks_reach_them(attempts, undisturbed):
    tries = attempts("rmoe_ep2")
    job = tries.start(checkpoint_seconds=1000)
    wait_until(lambda: tries.logged() > 0, job)
    job.send_signal(signal.SIGUSR1)
    wait_until(lambda: bool(tries.steps()), job)
    # The ranks may have had it one step apart: then there are two.
    first = max(tries.steps())
    end(job, signal.SIGTERM)
    assert job.returncode == 143
    assert "Traceback" not in tries.messages
    assert tries.messages.count("stopped by SIGTERM") == 1
    last = max(tries.steps())
    assert last > first
    assert_same(tries.finish(), undisturbed("rmoe_ep2"))
    assert tries.record["resumed_from_step"] == last


@pytest.mark.slow
def test_ranks_whose_launcher_was_killed_end_at_once_also_one_that_waits_for_another(attempts, undisturbed):
    tries = attempts("rmoe_ep2")
    job = tries.start()
    wait_until(lambda: max(tries.steps(), default=0) >= 10, job)
    ranks = ranks_of(job)
    # The first rank now waits in a collective for one that is there and does not answer.
    ranks[1].suspend()
    time.sleep(0.5)
    job.kill()
    job.wait()
    gone, _ = psutil.wait_procs(ranks[:1], timeout=20)
    assert gone
    with contextlib.suppress(psutil.NoSuchProcess):
        ranks[1].resume()
    assert not psutil.wait_procs(ranks, timeout=20)[1]
    assert_same(tries.finish(), undisturbed("rmoe_ep2"))
    assert tries.record["resumed_from_step"] >= 10
