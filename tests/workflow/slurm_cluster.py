"""A real Slurm cluster of two nodes on 127.0.0.1, in one folder, for one test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
NODES = ("n1", "n2")
START_SECONDS, END_SECONDS = 30, 15

CONFIGURATION = """\
ClusterName=retrace
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=2
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]},{ports[2]} CPUs=1 RealMemory={memory}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    absent = [name for name in (*DAEMONS, *CLIENTS) if _program(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd starts jobs as other users, so only root can run this cluster"
    return None


@dataclass
class Cluster:
    """A running cluster: its folder, and its client commands in ``folder/bin``."""

    folder: Path

    def ask(self, name: str, *arguments: str) -> str:
        """What a client command says."""
        command = [str(self.folder / "bin" / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start, as scontrol's fields."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(field.split("=", 1) for field in line.split() if "=" in field) for line in lines if "=" in line]

    def logs(self) -> str:
        """The daemons' last words, for a failure's message."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def two_nodes(folder: Path, memory_mb: int = 4000) -> Iterator[Cluster]:
    """Start munged, slurmctld and a slurmd for each node; end them, and what runs on them, afterwards.

    Raises:
        RuntimeError: the nodes are not idle within START_SECONDS.
    """
    cluster = Cluster(folder)
    for name in ("bin", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(3), nodes=",".join(NODES), memory=memory_mb)
    configuration.write_text(text, encoding="utf-8")
    # Snakemake's job step drops SLURM_CONF, so the commands themselves know where it is.
    for name in CLIENTS:
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {_program(name)} "$@"\n', encoding="utf-8")
        command.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "seed", "log")]
    with ExitStack() as daemons:

        def start(program: str, *arguments: str, until: Callable[[], bool] = lambda: True) -> None:
            process = daemons.enter_context(_running(folder, program, *arguments))
            deadline = time.monotonic() + START_SECONDS
            while not until():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{program} did not start within {START_SECONDS} s\n{cluster.logs()}")
                time.sleep(0.2)

        munge_socket = folder / "munge.socket"
        start("munged", "--foreground", "--force", f"--socket={munge_socket}", *files, until=munge_socket.exists)
        start("slurmctld", "-D", "-f", str(configuration), until=lambda: _states(cluster) != [])
        # Jobs outlive slurmd, so they are to end first.
        daemons.callback(_cancel, cluster)
        for number, node in enumerate(NODES, start=1):
            start("slurmd", "-D", "-N", node, "-f", str(configuration), until=lambda n=number: _idle(cluster) == n)
        yield cluster


@contextmanager
def _running(folder: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    program = _program(name)
    assert program is not None
    with (folder / f"{name}.out.log").open("ab") as output:
        # Killed tests leave no daemons: Linux ends them with the process that started them.
        command = ["setpriv", "--pdeathsig", "TERM", program, *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _states(cluster: Cluster) -> list[str]:
    """The nodes' states; none while slurmctld does not answer."""
    try:
        return cluster.ask("sinfo", "--noheader", "--Node", "--format=%T").split()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return []


def _idle(cluster: Cluster) -> int:
    return _states(cluster).count("idle")


def _cancel(cluster: Cluster) -> None:
    with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
        deadline = time.monotonic() + END_SECONDS
        while cluster.ask("squeue", "--noheader") and time.monotonic() < deadline:
            cluster.ask("scancel", "--user=root")
            time.sleep(0.5)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin")


def _free_ports(number: int) -> list[int]:
    with ExitStack() as sockets:
        bound = [sockets.enter_context(closing(socket.socket())) for _ in range(number)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]
