"""What the current tables need, as Snakemake itself would say it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.graph import copy_checkout
from pipelines.runs.errors import RetraceError
from pipelines.store.wanted import artifact_of, merged_config, plan_wanted, relative_to_checkout, select


@pytest.fixture
def overlays(tmp_path: Path) -> list[Path]:
    texts = (
        {"papers": ["gstack"], "growth": {"stack": {"growth_factor": 2}, "model": {"num_layers": 4}}},
        {"growth": {"model": {"num_layers": 6}}, "seeds": 2},
    )
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    return [tmp_path / "0.yaml", tmp_path / "1.yaml"]


def test_a_later_overlay_wins_key_by_key_and_lists_as_a_whole(overlays: list[Path], root: Path) -> None:
    config = merged_config([root / "params.yaml", *overlays])
    assert config["papers"] == ["gstack"]
    assert config["growth"]["model"]["num_layers"] == 6
    assert config["growth"]["stack"]["growth_factor"] == 2
    assert config["pretrain"] == yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["pretrain"]


def test_the_same_jobs_are_wanted_that_snakemake_plans(overlays: list[Path], tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    smoke = checkout / "params" / "smoke.yaml"
    (checkout / "overlay.yaml").write_text(overlays[1].read_text(encoding="utf-8"), encoding="utf-8")
    summary = [sys.executable, "-m", "snakemake", "paper_tables", "--summary", "--configfile", smoke, "overlay.yaml"]
    done = subprocess.run(summary, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    made = {line.split("\t")[0] for line in done.stdout.splitlines()[1:]}
    pages = ("results/tables/", "results/claims.", "results/metrics", "results/mlflow/")
    artifacts = {path for path in made if not path.startswith(pages)}
    assert set(plan_wanted([smoke, checkout / "overlay.yaml"], root=checkout)) == artifacts


def test_a_missing_overlay_and_a_wrong_parameter_are_named(tmp_path: Path) -> None:
    with pytest.raises(RetraceError, match=r"absent\.yaml: No such file"):
        plan_wanted([tmp_path / "absent.yaml"])
    (tmp_path / "wrong.yaml").write_text("growth: {factor: 2}\n", encoding="utf-8")
    with pytest.raises(RetraceError, match=r"growth.*factor"):
        plan_wanted([tmp_path / "wrong.yaml"])


def test_planning_does_not_depend_on_the_folder_it_is_asked_from(tmp_path: Path, monkeypatch) -> None:
    before = {path: job.key for path, job in plan_wanted().items()}
    monkeypatch.chdir(tmp_path)
    assert {path: job.key for path, job in plan_wanted().items()} == before


@pytest.mark.parametrize(
    ("given", "artifact"),
    [
        ("results/tables/gstack/operators.tex", "results/papers/gstack"),
        ("results/tables/gstack", "results/papers/gstack"),
        ("results/claims.csv", "results/papers/claims"),
        ("results/growth/stack", "results/growth/stack"),
        ("results/metrics", "results/metrics"),
    ],
)
def test_a_published_page_stands_for_the_artifact_it_lies_in(given: str, artifact: str) -> None:
    assert artifact_of(given) == artifact


def test_paths_are_meant_from_the_folder_one_is_in(root: Path, monkeypatch) -> None:
    assert relative_to_checkout(Path("results/growth/../data/"), root) == "results/data"
    monkeypatch.chdir(root / "tests")
    assert relative_to_checkout(Path("../results/growth"), root) == "results/growth"
    monkeypatch.chdir("/")
    assert relative_to_checkout(Path("results/growth"), root) == "results/growth"
    assert relative_to_checkout(root / "results" / "growth", root) == "results/growth"


def test_targets_are_artifacts_or_folders_of_them_and_nothing_else(root: Path, monkeypatch) -> None:
    monkeypatch.chdir(root)
    jobs = plan_wanted()
    assert len(select(jobs, [])) == len(jobs)
    below = select(jobs, ["results/growth/stack", "results/growth/stack/default/seed0"])
    assert {job.path for job in below} == {path for path in jobs if path.startswith("results/growth/stack/")}
    for wrong in ("results/growth/stac", "results/metrics", "."):
        with pytest.raises(RetraceError, match="the current parameters have no such artifact or table"):
            select(jobs, [wrong])


def test_asking_for_help_plans_nothing_and_imports_little(root: Path) -> None:
    code = "import sys, pipelines.store.verbs, pipelines.store.gc, pipelines.store.publish, pipelines.store.share\n"
    code += "print([name for name in ('torch', 'dvc', 'snakemake', 'rich', 'workflow', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
