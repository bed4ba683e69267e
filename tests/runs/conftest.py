"""A small tree with one stage of its own, so that what the framework does is seen without a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.cache import Cache, CacheSettings
from pipelines.runs.store import Store

ROOT = Path(__file__).resolve().parents[2]

VERBS = """
from pipelines.growth.spec import GrowSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Verb

def check(spec, execution):
    if spec.steps % execution.processes:
        raise RetraceError(f"steps {spec.steps} is not a multiple of the {execution.processes} processes")

VERBS = {
    "train": Verb(
        help="Add numbers.",
        implementation="pipelines.growth.training:train",
        spec=GrowSpec,
        inputs={"base": "what to start from", "extra": "more of it"},
        optional=frozenset({"base", "extra"}),
        many=frozenset({"extra"}),
        packages=("numpy",),
        check=check,
    )
}
"""

SPEC = """
from typing import Any
from pydantic import BaseModel, Field
from pipelines.runs.verb import Spec

class Inner(Spec):
    width: int = 3

class GrowSpec(Spec):
    method: dict[str, Any]
    steps: int = Field(2, ge=1, description="how many")
    seed: int = 0
    fault: str = ""
    inner: Inner = Inner()
"""

TRAINING = '''
"""Add numbers."""
import os
import signal
import time
from typing import TYPE_CHECKING

from pipelines.growth import formula
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pipelines.growth import unrelated


def train(spec, inputs, job):
    """The work."""
    method = load_method("growth", spec.method)
    job.work.mkdir(parents=True, exist_ok=True)
    if job.is_main:
        (job.out / "weights").write_text("part")
    with job.progress(spec.steps, "growing") as bar:
        for step in range(1, spec.steps + 1):
            job.log(step=step, loss=formula.loss(step), norms=[1.0, 2.0])
            bar.advance()
    if spec.fault == "wrong input":
        raise RetraceError("the base is too small: choose a larger one")
    if spec.fault == "bug":
        raise ValueError("a bug")
    if spec.fault == "wait":
        (job.out.parent / f"waiting{job.rank}").write_text(str(os.getpid()))
        time.sleep(60)
    if spec.fault == "gate":
        (job.out.parent / f"waiting{job.rank}").write_text(str(os.getpid()))
        while not (job.out.parent / "go").exists():
            time.sleep(0.02)
    if spec.fault == "large":
        (job.out / "large").write_bytes(bytes(2_000_000))
    job.record(tokens=10)
    return {"final_loss": formula.loss(spec.steps) * method.growth_factor, "world_size": job.world_size}
'''

STACK = '''
"""Stack layers (a paper).

More words.
"""
from dataclasses import dataclass
from typing import ClassVar, Literal

@dataclass(frozen=True)
class Stack:
    growth_factor: int
    timing: float = 0.5
    order: Literal["depth", "width"] = "depth"
    layers: tuple[int, ...] = (1, 2)
    name_of: str | None = None
    exact: bool = False
    requires: ClassVar[tuple[str, ...]] = ("base",)
'''

SCRATCH = '''
"""From scratch."""
from dataclasses import dataclass

@dataclass(frozen=True)
class Scratch:
    growth_factor: int = 1
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the framework and one stage, growth, whose methods are stack and scratch."""
    tree = tmp_path / "tree"
    package = tree / "pipelines"
    shutil.copytree(ROOT / "pipelines" / "runs", package / "runs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pipelines" / "__main__.py", package / "__main__.py")
    # The package's own file registers a stage that this tree does not have.
    (package / "__init__.py").touch()
    files = {
        "__init__.py": "",
        "verbs.py": VERBS,
        "spec.py": SPEC,
        "training.py": TRAINING,
        "formula.py": "def loss(step):\n    return 1.0 / step\n",
        "unrelated.py": "VALUE = 1\n",
        "methods/__init__.py": "",
        "methods/stack.py": STACK,
        "methods/scratch.py": SCRATCH,
    }
    for name, text in files.items():
        path = package / "growth" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tree


@pytest.fixture
def shared_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree with DVC set up and the store on; its cache is ``cache`` beside it."""
    (tree / ".dvc").mkdir()
    (tree / ".dvc" / "config").write_text("[cache]\n    dir = ../../cache\n    type = copy\n", encoding="utf-8")
    monkeypatch.setenv("RETRACE_STORE", "full")
    return tree


@pytest.fixture
def grow(shared_tree: Path, run_cli, tmp_path: Path):
    """Run the tree's one verb into a folder below ``results``: ``grow("name", spec, *options, execution=...)``."""

    def grow(name: str, spec: dict[str, Any], *options, **keywords) -> subprocess.CompletedProcess[str]:
        out = tmp_path / "results" / name
        return run_cli("growth", "train", "--out", out, *options, spec=spec, cwd=shared_tree, **keywords)

    return grow


@pytest.fixture
def start(shared_tree: Path, tmp_path: Path):
    """Start the verb and return at once: ``start("name", spec)``; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, spec: dict[str, Any], *options: str, **env: str) -> subprocess.Popen[str]:
        out = str(tmp_path / "results" / name)
        command = [sys.executable, "-m", "pipelines", "growth", "train", "--spec", json.dumps(spec), "--out", out]
        environment = {**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(shared_tree), **env}
        job = subprocess.Popen(
            [*command, *options], cwd=shared_tree, env=environment, stderr=subprocess.PIPE, text=True
        )
        started.append(job)
        return job

    yield start
    for job in started:
        job.kill()
        job.wait()
        assert job.stderr is not None
        job.stderr.close()


@pytest.fixture
def store(shared_tree: Path, tmp_path: Path) -> Store:
    return Store(Cache(CacheSettings(tmp_path / "cache", ("copy",))), shared_tree)


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """Write a finished run's record and metrics: ``make_run(folder, key="k", lines=[...], final={...}, **record)``."""

    def make_run(
        folder: Path,
        key: str | None = None,
        lines: list[dict[str, Any]] | None = None,
        final: dict[str, Any] | None = None,
        **record: Any,
    ) -> Path:
        folder.mkdir(parents=True)
        complete = {
            "key": key or str(folder),
            "stage": "growth",
            "verb": "train",
            "spec": {"method": {"name": "stack", "growth_factor": 4}, "seed": 1},
            "inputs": {"tokens": "t" * 64},
            "code_digest": "c" * 64,
            "git_commit": "abc+",
            "world_size": 1,
            "started": "2026-01-02T03:04:05+00:00",
            "seconds": 10.0,
            "peak_memory_bytes": 1000,
            "mlflow_run_id": None,
            "provenance": "computed",
            **record,
        }
        (folder / "run.json").write_text(json.dumps(complete, indent=2) + "\n", encoding="utf-8")
        logged = [*(lines or []), {"final": True, **(final or {})}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged), encoding="utf-8")
        return folder

    return make_run


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount something on a folder until the test ends: ``mount(folder, "-t", "tmpfs", "-o", "size=64k", "disk")``."""
    mounted: list[Path] = []

    def mount(folder: Path, *options: str | Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", *map(str, options), str(folder)], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(mount: Callable[..., None]) -> Callable[[Path, str], Path]:
    """Make a folder a disk of its own that is soon full: ``small_disk(folder, "64k")``."""

    def small_disk(folder: Path, size: str) -> Path:
        mount(folder, "-t", "tmpfs", "-o", f"size={size}", "small-disk")
        return folder

    return small_disk


@pytest.fixture
def read_only(mount: Callable[..., None]) -> Callable[[Path], Path]:
    """Make a folder read-only, for root too: ``read_only(folder)``."""

    def read_only(folder: Path) -> Path:
        mount(folder, "--bind", "-o", "ro", folder)
        return folder

    return read_only
