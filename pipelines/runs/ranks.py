"""Starting the ranks of one job: torchrun on this machine, or the tasks srun has already started."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

from pipelines.runs.errors import RetraceError
from pipelines.runs.signals import STOPPED, is_orphan
from pipelines.runs.verb import Execution

ORPHAN_SECONDS = 5.0


def in_slurm_step() -> bool:
    """True inside a task of an srun step of several; an sbatch script alone is not one, whatever it asked for."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def check_machine(execution: Execution) -> None:
    """Refuse more ranks than this machine can run.

    Raises:
        RetraceError: too few cores or GPUs.
    """
    cores = len(os.sched_getaffinity(0))
    if execution.device != "cuda" and execution.processes > max(cores, 2):
        raise RetraceError(
            f"--exec processes: {execution.processes} ranks need as many cores and this machine has {cores}: "
            "lower processes (and the parallel sizes), or run on a larger machine"
        )
    if execution.device == "cuda":
        import torch

        if torch.cuda.device_count() < execution.processes:
            raise RetraceError(
                f"--exec processes: {execution.processes} ranks need a GPU each and this machine shows "
                f"{torch.cuda.device_count()}: lower processes, or set device to cpu"
            )


def process_started() -> float:
    """When this job's first process began, in seconds since 1970; a rank counts from the process that started it."""
    if "RETRACE_STARTED" in os.environ:
        return float(os.environ["RETRACE_STARTED"])
    try:
        # Field 22, in clock ticks after boot; the name before it may contain spaces.
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.time() - time.process_time()


def end_with_launcher() -> None:
    """Have this rank end when torchrun dies, however it dies; an orphaned rank would hold its cores for hours."""
    if "RETRACE_LAUNCHER" not in os.environ or "RANK" not in os.environ:
        return
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    threading.Thread(target=_end_orphan, daemon=True).start()


def _end_orphan() -> None:
    """End a rank that SIGTERM could not, because it waits in a collective for ranks that are gone."""
    while not is_orphan():
        time.sleep(1)
    time.sleep(ORPHAN_SECONDS)
    os._exit(STOPPED)


def run_ranks(execution: Execution) -> int:
    """Run this same command line on every rank under torchrun; returns their exit status, to ``leave`` with."""
    _pass_on_sigusr1()
    check_machine(execution)
    os.environ["RETRACE_LAUNCHER"] = str(os.getpid())
    os.environ["RETRACE_STARTED"] = str(process_started())
    os.environ["OMP_NUM_THREADS"] = str(execution.threads)
    # All ranks are on this machine, whose own name need not resolve.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # The failed rank has said what is wrong; torchrun's own account of it would bury that.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    ranks = ["--nproc-per-node", str(execution.processes)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    code = 0
    # torchrun leaves an empty folder of logs behind unless it is given one.
    with tempfile.TemporaryDirectory(prefix="retrace-ranks-") as logs:
        try:
            torchrun([*ranks, *rendezvous, "--log-dir", logs, "-m", "pipelines", *sys.argv[1:]])
        except ChildFailedError as failed:
            rank, first = failed.get_first_failure()
            code = first.exitcode if first.exitcode > 0 else 128 - first.exitcode
            if first.exitcode < 0:
                name = signal.Signals(-first.exitcode).name
                print(f"rank {rank} was ended by {name}; the other ranks were stopped", file=sys.stderr)
        except SignalException as stopped:
            code = 128 + stopped.sigval
    return code


def _pass_on_sigusr1() -> None:
    """Hand every SIGUSR1 to the ranks; torchrun would die of it."""
    # Ranks inherit the mask: a signal that comes before they can take it waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    def pass_on() -> None:
        import psutil

        while True:
            signal.sigwait({signal.SIGUSR1})
            for rank in psutil.Process().children():
                rank.send_signal(signal.SIGUSR1)

    threading.Thread(target=pass_on, daemon=True).start()


def leave(code: int = 0) -> NoReturn:
    """End this process now, its work being done.

    Threads of gloo and of torchrun's store live until the interpreter is torn down, and now and then they abort it
    ("terminate called without an active exception"): a finished job would count as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def join_slurm(execution: Execution) -> None:
    """Translate the environment of an srun task into torch.distributed's.

    Raises:
        RetraceError: the step has another number of tasks than the job asks for.
    """
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    if tasks != execution.processes:
        raise RetraceError(
            f"--exec processes is {execution.processes} but srun started {tasks} tasks: make the profile's tasks equal"
        )
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ["WORLD_SIZE"] = str(tasks)
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    # Every task derives the same port, and steps of one allocation do not meet on it.
    step = int(os.environ.get("SLURM_JOB_ID", 0)) * 131 + int(os.environ.get("SLURM_STEP_ID", 0))
    os.environ.setdefault("MASTER_PORT", str(20000 + step % 20000))
