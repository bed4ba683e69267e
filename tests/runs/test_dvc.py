"""What `dvc` says about a checkout with results: git-ignored files count, parameters compare with a commit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DVC = Path(sys.executable).parent / "dvc"
# Not those of the person who runs the tests, who may sign commits or have hooks.
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """A repository with this one's DVC files and parameters in its first commit."""
    clone = tmp_path / "clone"
    (clone / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"):
        shutil.copy(root / name, clone / name)
    for command in (["init", "-q"], ["add", "-A"], [*AUTHOR, "commit", "-q", "-m", "Start"]):
        subprocess.run(["git", *command], cwd=clone, check=True, env={**os.environ, **GIT})
    return clone


def dvc(clone: Path, *arguments: str) -> str:
    environment = {**os.environ, **GIT, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run([DVC, *arguments], cwd=clone, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_params_diff_names_the_changed_number_and_both_values(clone):
    text = (clone / "params.yaml").read_text(encoding="utf-8")
    params = yaml.safe_load(text)
    before = params["pretrain"]["training"]["train_iters"]
    params["pretrain"]["training"]["train_iters"] = before + 1
    (clone / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    changes = json.loads(dvc(clone, "params", "diff", "--json"))
    assert changes == {"params.yaml": {"pretrain.training.train_iters": {"old": before, "new": before + 1, "diff": 1}}}


def test_metrics_show_reads_what_collect_wrote_though_git_ignores_it(clone, run_cli, make_run):
    for seed, loss in enumerate((2.0, 4.0)):
        make_run(clone / "results" / "growth" / "stack" / "default" / f"seed{seed}", final={"val_loss": loss})
    run_cli("runs", "collect", "--out", clone / "results" / "metrics", clone / "results")
    data = json.loads(dvc(clone, "metrics", "show", "--json"))[""]["data"]
    assert data == {"results/metrics/growth/stack/default.json": {"data": {"num_runs": 2, "val_loss": 3.0}}}
    status = subprocess.run(["git", "status", "--short"], cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_plots_show_the_claims(clone):
    (clone / "results").mkdir()
    (clone / "results" / "claims.csv").write_text("id,difference\nstack_beats_scratch,0.25\n", encoding="utf-8")
    (plot,) = json.loads(dvc(clone, "plots", "show", "--json", "claims"))["data"]["claims"]
    assert plot["content"]["data"]["values"][0]["difference"] == "0.25"


def test_no_telemetry_and_no_second_graph(root):
    config = (root / ".dvc" / "config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "autostage = false" in config
    assert "stages" not in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    assert ".snakemake_timestamp" in (root / ".dvcignore").read_text(encoding="utf-8")
