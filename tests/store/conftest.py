"""A small team: Alice's checkout with every artifact that its tables need, made up, and Bob's fresh clone of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.store.team import AUTHOR, make_artifact, run_of, store_of

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pipelines", "workflow", "papers", "params", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore")
# One paper and one seed: 11 artifacts, however many tables that paper has come to have.
PAPERS, SEEDS = ["gstack"], 1
PAPER = """
title: Stacking
tables:
  operators:
    caption: Growth.
    stage: growth
    rows: [scratch, stack]
    columns: [val_loss, average_acc]
    evaluate: true
    seeds: [0]
claims:
  - {id: better, says: it is, where: here, table: operators, better: stack, than: scratch, metric: val_loss}
"""
JOBS = """
import json
from pipelines.store.wanted import plan_wanted
print(json.dumps({path: [job.key, job.stage, job.verb] for path, job in plan_wanted().items()}))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def quiet(tmp_path_factory) -> dict[str, str]:
    """An environment in which nothing of the person who runs the tests matters: no configuration, no hooks, no keys."""
    nothing = tmp_path_factory.mktemp("nothing")
    return {
        "RETRACE_STORE": "full",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(nothing),
        "DVC_SYSTEM_CONFIG_DIR": str(nothing),
        "DVC_SITE_CACHE_DIR": str(tmp_path_factory.mktemp("site")),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "AWS_CONFIG_FILE": str(nothing / "absent"),
        "AWS_SHARED_CREDENTIALS_FILE": str(nothing / "absent"),
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="session")
def call(quiet) -> Run:
    """``call(folder, "git", "log", check=True)``: any program in that environment."""

    def call(folder: Path, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(each) for each in command],
            cwd=folder,
            env={**os.environ, **quiet, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode != 0:
            pytest.fail(f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return call


@pytest.fixture(scope="session")
def store_command(call) -> Run:
    """``store_command(alice, "share", ...)``: ``python -m pipelines store share ...`` in that checkout."""

    def store_command(checkout: Path, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return call(checkout, sys.executable, "-m", "pipelines", "store", *arguments, check=check)

    return store_command


@pytest.fixture(scope="session")
def finished(tmp_path_factory, call) -> Path:
    """A committed checkout whose tables are all made, and stored."""
    folder = tmp_path_factory.mktemp("finished") / "checkout"
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params |= {"papers": PAPERS, "seeds": SEEDS}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "papers" / PAPERS[0] / "paper.yaml").write_text(PAPER, encoding="utf-8")
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), (*AUTHOR, "commit", "-q", "-m", "Start")):
        call(folder, "git", *command)
    store = store_of(folder)
    for path, (key, stage, verb) in json.loads(call(folder, sys.executable, "-c", JOBS).stdout).items():
        make_artifact(folder / path, key, stage, verb)
        assert store.put(folder / path, run_of(folder / path)) is not None
    return folder


@pytest.fixture
def disk(tmp_path) -> Path:
    """Where the team's remote is: a folder of a disk that all reach."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk" / "team"


@pytest.fixture
def alice(finished, disk, tmp_path, call) -> Path:
    """Her checkout: all is made and stored, nothing shared yet."""
    alice = tmp_path / "alice"
    shutil.copytree(finished, alice)
    # As `dvc remote add -d team DISK` writes it.
    with (alice / ".dvc" / "config").open("a", encoding="utf-8") as config:
        config.write(f"    remote = team\n['remote \"team\"']\n    url = {disk}\n")
    call(alice, "git", *AUTHOR, "commit", "-q", "-a", "-m", "Set the remote")
    return alice


@pytest.fixture
def bob(alice, tmp_path, call) -> Path:
    """His fresh clone: the same code and remote, nothing computed."""
    call(tmp_path, "git", "clone", "-q", alice, "bob")
    return tmp_path / "bob"
