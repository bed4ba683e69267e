"""One job from call to artifact: validate, ask the store, start the ranks, run, record, and move the folder into place.

Everything is written under a sibling folder and renamed at the end: an artifact is whole or absent.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT, RUN_RECORD, code_digest, code_of_modules, method_name, versions
from pipelines.runs.job import Job, work_folder
from pipelines.runs.lock import hold_rank, job_lock, remove_unfinished
from pipelines.runs.placement import check_free, full_folder, make_partial, move_into_place, partial_folder
from pipelines.runs.ranks import end_with_launcher, in_slurm_step, join_slurm, leave, process_started, run_ranks
from pipelines.runs.request import Inputs, Request, validate_spec
from pipelines.runs.reuse import adopt, check_same_job, holds, restored
from pipelines.runs.signals import install_signal_handlers
from pipelines.runs.store import Record, Store, open_store
from pipelines.runs.verb import Execution, Verb, parse_spec


def run_job(
    stage: str,
    verb: str,
    declared: Verb,
    spec_text: str,
    exec_text: str,
    inputs: Inputs,
    out: Path,
    *,
    overwrite: bool = False,
    key: str | None = None,
) -> None:
    """Bring one verb's artifact to ``out``: from the store if it has it, else by running the verb.

    Args:
        key: the identity that the graph planned; the store is asked for it before any input is read.

    Raises:
        RetraceError: a wrong spec, a missing input, an existing output, a key that is not this job's, a full disk.
    """
    install_signal_handlers()
    spec = validate_spec(stage, declared, spec_text)
    execution = parse_spec(Execution, exec_text, "--exec")
    assert isinstance(execution, Execution)
    request = Request(stage, verb, declared, spec, execution, inputs, out, overwrite)
    if "RANK" in os.environ:
        # The process that started this rank has asked the store.
        request.check()
        compute(request)
        return
    in_step = execution.processes > 1 and in_slurm_step()
    if in_step:
        join_slurm(execution)
    is_first = os.environ.get("RANK", "0") == "0"
    # A slow task may come here when the first one has already finished.
    if is_first and not overwrite:
        if key is not None and not in_step and holds(out, key):
            # Snakemake was killed, its job went on, and was faster than the one of the next call.
            adopt(out, key)
            return
        check_free(out)
    if key is None:
        request.check()
        key = request.key
    store = open_store()
    if in_step:
        _run_task(request, key, store, is_first)
        return
    record = store.record(key) if store else None
    if store and record and _served(request, store, record):
        remove_unfinished(work_folder(key))
        return
    request.check_planned(key)
    with job_lock(work_folder(key)) as waited:
        # Whoever had the lock may have finished it: in place, or into the store, where it may have mended an object.
        if waited and holds(out, key):
            adopt(out, key)
            return
        now = store.record(key) if store else None
        if store and now and (waited or now != record) and _served(request, store, now):
            return
        if execution.processes == 1:
            compute(request)
            return
        code = run_ranks(execution)
    leave(code)


def _run_task(request: Request, key: str, store: Store | None, is_first: bool) -> None:
    """One task of an srun step. Each decides alone, by what all of them see: whether every object is here."""
    record = store.record(key) if store else None
    if store is None or record is None or store.missing(record):
        request.check_planned(key)
        compute(request)
    elif is_first and not _served(request, store, record):
        raise RetraceError(f"{request.out}: a stored object was damaged and has been removed: run the job again")


def _served(request: Request, store: Store, record: Record) -> bool:
    """Whether the artifact could be restored, and is now in place."""
    check_same_job(record, request.stage, request.verb, request.values)
    with _full_disk_is_said(request.out, work_folder(record.key)):
        return restored(store, record, request.out, overwrite=request.overwrite)


def compute(request: Request) -> None:
    """Run the verb in this process, one of the job's ranks, and store and place what it made."""
    execution, out = request.execution, request.out
    if "threads" in execution.model_fields_set:
        os.environ["OMP_NUM_THREADS"] = str(execution.threads)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(execution.threads))
    partial = partial_folder(out)
    job = Job(partial, request.key, execution)
    if "RANK" in os.environ:
        hold_rank(job.work)
    end_with_launcher()
    store = open_store()
    started = time.time()
    try:
        with _full_disk_is_said(out, job.work):
            if job.is_main:
                make_partial(out)
            final = request.declared.load()(request.spec, request.inputs, job)
            if not job.is_main:
                return
            job.log(final=True, **final)
            job.close()
            record = _run_record(request, job, started)
            (partial / RUN_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        # The work is done: what is left takes no longer than ending it would, and nobody wants it done again.
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if store is not None:
            store.put(partial, record, place=out)
        try:
            move_into_place(partial, out, overwrite=request.overwrite)
        except FileExistsError:
            adopt(out, request.key)
            shutil.rmtree(partial)
        # Checkpoints of an unfinished job are of no use to a finished one.
        shutil.rmtree(job.work, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
    except BaseException:
        job.close()
        if job.is_main:
            # torchrun and schedulers repeat the signal; the second must not cut the cleaning short.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _run_record(request: Request, job: Job, started: float) -> dict[str, Any]:
    """What is written into run.json."""
    method = method_name(request.values)
    return {
        "key": request.key,
        "stage": request.stage,
        "verb": request.verb,
        "spec": request.values,
        "inputs": request.input_keys,
        "code_digest": code_digest(request.stage, request.declared, method),
        "code": code_of_modules(request.stage, request.declared, method),
        "versions": versions(request.declared.packages),
        "git_commit": git_commit(),
        "execution": request.execution.model_dump(mode="json"),
        "world_size": job.world_size,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(job.seconds(), 3),
        "startup_seconds": round((job.first_step_at or time.time()) - process_started(), 3),
        "peak_memory_bytes": _peak_memory(),
        "mlflow_run_id": None,
        "provenance": "computed",
        **job.facts,
    }


@contextmanager
def _full_disk_is_said(out: Path, work: Path) -> Iterator[None]:
    """Turn whatever a full disk makes libraries say into one line."""
    try:
        yield
    except RetraceError:
        raise
    except Exception as error:
        folder = full_folder(error, [out.parent, work.parent])
        if folder is None:
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise RetraceError(
            f"{folder}: no space left on this disk ({said}); make room, for instance with "
            f"`python -m pipelines store gc`, and run again: training goes on from the checkpoints in {work}"
        ) from error


@cache
def git_commit() -> str | None:
    """The commit checked out, with ``+`` when tracked files differ from it; None outside git."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _peak_memory() -> int:
    """Peak resident bytes of this process; getrusage would count what it inherited from the process that started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
