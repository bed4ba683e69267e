"""One job from call to artifact: validate, start the ranks, run, record, and move the folder into place.

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
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT, RUN_RECORD, code_digest, input_key, job_key, method_name, versions
from pipelines.runs.job import Job
from pipelines.runs.methods import resolve_method
from pipelines.runs.ranks import end_with_launcher, in_slurm_step, join_slurm, process_started, run_ranks
from pipelines.runs.signals import install_signal_handlers
from pipelines.runs.verb import Execution, Spec, Verb, parse_spec

Inputs = dict[str, Any]
"""Input name -> Path, list of Paths for inputs that take many, or None for an optional one not given."""


def validate_spec(stage: str, declared: Verb, text: str | dict[str, Any]) -> Spec:
    """The spec with its method resolved and every default spelled out."""
    if isinstance(text, str):
        # Only to reach the method inside; parse_spec gives the errors a person reads.
        source = (
            Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") and Path(text[1:]).is_file() else text
        )
        try:
            values = json.loads(source)
        except json.JSONDecodeError:
            return parse_spec(declared.spec, text, "--spec")
    else:
        values = dict(text)
    if "method" in declared.spec.model_fields and isinstance(values, dict) and "method" in values:
        values["method"] = resolve_method(stage, values["method"])
    return parse_spec(declared.spec, values, "--spec")


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
) -> None:
    """Run one verb to its artifact in ``out``.

    Raises:
        RetraceError: a wrong spec, a missing input, an existing output.
    """
    install_signal_handlers()
    spec = validate_spec(stage, declared, spec_text)
    execution = parse_spec(Execution, exec_text, "--exec")
    assert isinstance(execution, Execution)
    _check_inputs(stage, declared, spec, inputs)
    if declared.check is not None:
        declared.check(spec, execution)
    ranks_wanted = execution.processes > 1 and "RANK" not in os.environ
    if ranks_wanted and in_slurm_step():
        join_slurm(execution)
        ranks_wanted = False
    # A slow rank may come here when the first one has already finished.
    if out.exists() and not overwrite and os.environ.get("RANK", "0") == "0":
        raise RetraceError(f"{out} exists: remove it, choose another --out, or give --overwrite")
    if ranks_wanted:
        run_ranks(execution)
    if "threads" in execution.model_fields_set:
        os.environ["OMP_NUM_THREADS"] = str(execution.threads)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(execution.threads))

    # An input not given and an empty list of inputs are the same thing.
    input_keys = {name: _keys(path) for name, path in inputs.items() if path}
    values = spec.model_dump(mode="json")
    key = job_key(stage, verb, declared, values, input_keys)
    partial = out.with_name(f".{out.name}.partial")
    job = Job(partial, key, execution)
    end_with_launcher()
    started = time.time()
    try:
        if job.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        final = declared.load()(spec, inputs, job)
        if not job.is_main:
            return
        job.log(final=True, **final)
        job.close()
        record = {
            "key": key,
            "stage": stage,
            "verb": verb,
            "spec": values,
            "inputs": input_keys,
            "code_digest": code_digest(stage, declared, method_name(values)),
            "versions": versions(declared.packages),
            "git_commit": git_commit(),
            "execution": execution.model_dump(mode="json"),
            "world_size": job.world_size,
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(job.seconds(), 3),
            "startup_seconds": round((job.first_step_at or time.time()) - process_started(), 3),
            "peak_memory_bytes": _peak_memory(),
            "mlflow_run_id": None,
            "provenance": "computed",
            **job.facts,
        }
        (partial / RUN_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _move_into_place(partial, out)
        # Checkpoints of an unfinished job are of no use to a finished one.
        shutil.rmtree(job.work, ignore_errors=True)
    except BaseException:
        job.close()
        if job.is_main:
            # torchrun and schedulers repeat the signal; the second must not cut the cleaning short.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            shutil.rmtree(partial, ignore_errors=True)
        raise


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


def _check_inputs(stage: str, declared: Verb, spec: Spec, inputs: Inputs) -> None:
    demanded: tuple[str, ...] = ()
    if "method" in type(spec).model_fields:
        from pipelines.runs.methods import method_card

        name = method_name(spec.model_dump(mode="json"))
        demanded = method_card(stage, str(name)).requires
    for name in declared.inputs:
        path = inputs.get(name)
        if not path:
            if name in declared.optional and name not in demanded:
                continue
            raise RetraceError(f"--{name} is missing: {declared.inputs[name]}")
        for each in path if isinstance(path, list) else [path]:
            if not each.exists():
                raise RetraceError(f"--{name}: no such file or folder: {each}")


def _keys(path: Path | list[Path]) -> str | list[str]:
    return [input_key(each) for each in path] if isinstance(path, list) else input_key(path)


def _move_into_place(partial: Path, out: Path) -> None:
    """Rename; what is replaced goes aside first, so that a kill in between loses neither."""
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    partial.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _peak_memory() -> int:
    """Peak resident bytes of this process; getrusage would count what it inherited from the process that started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
