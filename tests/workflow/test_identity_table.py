"""A table: change this, and exactly these jobs run again. Asked of Snakemake itself, on a finished graph."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

Snakemake = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[Path], None]

pytestmark = pytest.mark.slow

# Paths of outputs, as shell patterns; those that start with `!` are left out.
CLAIMS = ("results/papers/claims", "results/claims.*")
MIRRORS = ("results/metrics", "results/mlflow/*.json")
PAPERS = ("results/papers/*", "results/tables/*", "results/claims.*")
TOKENIZERS = ("results/tokenizer/*", "results/vocabulary/*", "results/tokens/*")
SCORES = ("results/evaluate/*/seed0",)
FINETUNED = ("results/continual/*", "results/evaluate/continual/*")
UPCYCLED = ("results/moe/topk/init=upcycle/*", "results/export/moe/*", "results/evaluate/moe/*", *FINETUNED)
STACKED = ("results/growth/stack/*", "results/*/growth/stack/*", *UPCYCLED)
TRAINED = ("results/pretrain/*", "results/growth/*", "results/moe/*", "results/continual/*")
MODELS = (*TRAINED, "results/levels/*", "results/export/*", "results/forecast/*", "results/positions/*", *SCORES)


def paper(*keys: str) -> tuple[str, ...]:
    """What is made of a paper's runs."""
    return (*(f"results/{part}" for key in keys for part in (f"papers/{key}", f"tables/{key}/*")), *CLAIMS)


# Changes


def edit(name: str, old: str, new: str) -> Change:
    def change(checkout: Path) -> None:
        text = (checkout / name).read_text(encoding="utf-8")
        assert old in text, f"{name} no longer says {old!r}"
        (checkout / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


def add(name: str, text: str) -> Change:
    def change(checkout: Path) -> None:
        with (checkout / name).open("a", encoding="utf-8") as file:
            file.write(text)

    return change


def copy(name: str, to: str) -> Change:
    def change(checkout: Path) -> None:
        (shutil.copytree if (checkout / name).is_dir() else shutil.copy)(checkout / name, checkout / to)

    return change


def remove(name: str) -> Change:
    def change(checkout: Path) -> None:
        shutil.rmtree(checkout / name)

    return change


def note_another(path: str) -> Change:
    """Let Snakemake believe that what lies at a path has another key."""

    def change(checkout: Path) -> None:
        notes = checkout / ".snakemake" / "metadata" / urlsafe_b64encode(path.encode()).decode()
        noted = json.loads(notes.read_text(encoding="utf-8"))
        assert len(noted["params"]) == 1
        notes.write_text(json.dumps({**noted, "params": [repr("0" * 64)]}), encoding="utf-8")

    return change


def reformat(name: str) -> Change:
    """Lay a module out anew, its comments gone."""

    def change(checkout: Path) -> None:
        text = (checkout / name).read_text(encoding="utf-8")
        (checkout / name).write_text(ast.unparse(ast.parse(text)), encoding="utf-8")

    return change


def sort_keys(name: str) -> Change:
    """Write a YAML file anew: keys sorted, comments gone, numbers spelled otherwise."""

    def change(checkout: Path) -> None:
        values = yaml.safe_load((checkout / name).read_text(encoding="utf-8"))
        (checkout / name).write_text(yaml.safe_dump(values, sort_keys=True), encoding="utf-8")

    return change


def touch(checkout: Path) -> None:
    """Make every file as old as every other."""
    for path in checkout.rglob("*"):
        os.utime(path, (2e9, 2e9), follow_symlinks=False)


def clone_times(checkout: Path) -> None:
    """Give the files that git has the times of a checkout tomorrow."""
    for path in checkout.rglob("*"):
        if path.relative_to(checkout).parts[0] not in ("results", ".snakemake", ".dvc"):
            os.utime(path, (2e9, 2e9), follow_symlinks=False)


@dataclass(frozen=True)
class Row:
    """One change and what it makes run again.

    Attributes:
        jobs: patterns of the outputs, all of them and no others.
        changes: to the files of the checkout.
        overlay: of the parameters.
        arguments: more of Snakemake's command line.
        versions: package -> version that seems to be installed.
    """

    jobs: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    overlay: dict[str, Any] | None = None
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def params(jobs: Iterable[str], **overlay: Any) -> Row:
    return Row(tuple(jobs), overlay=overlay)


def files(jobs: Iterable[str], *changes: Change) -> Row:
    return Row(tuple(jobs), changes)


def execution(*arguments: str, **environment: str) -> Row:
    return Row((), arguments=arguments, environment=environment)


DEFAULT_PAPERS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))["papers"]
TRAINING = "pipelines/megatron/training.py"
ROWS = {
    # Parameters
    "a hyper-parameter of one method": params(
        ["results/moe/rmoe/*", *paper("rmoe"), *MIRRORS], moe={"rmoe": {"recurrent_size": 4}}
    ),
    "a hyper-parameter of a method upstream": params(
        # A V-cycle's stack has a factor of its own.
        [
            *STACKED,
            *("!results/growth/stack/*growth_factor=1,*", "!results/growth/stack/cycle.level=*"),
            *paper("gstack", "temporal_scaling", "chain", "migu"),
            *MIRRORS,
        ],
        growth={"stack": {"growth_factor": 6}},
    ),
    "the base model's learning rate, which growth does not share": params(
        # A row of sltrain's has twice the rate, and what was made at twice the old one is no longer wanted.
        [*MODELS, "!results/*growth/scratch/*", "!results/pretrain/sltrain/training.lr=0.006,*", *PAPERS, *MIRRORS],
        pretrain={"training": {"lr": 0.004}},
    ),
    "the learning rate of upcycled experts": params(
        [*UPCYCLED, *paper("chain", "migu"), *MIRRORS], moe={"upcycle": {"training": {"lr": 0.002}}}
    ),
    "how often a loss is logged, which the artifact shows": params(
        [
            *("results/growth/*", "results/*/growth/*", "results/levels/*", "!results/levels/coalesced/*"),
            *UPCYCLED,
            *paper("gstack", "temporal_scaling", "vcycle", "chain", "migu"),
            *MIRRORS,
        ],
        growth={"training": {"log_interval": 2}},
    ),
    "the size of the vocabularies": params(
        # Half the size, which some rows have, is then another, and what was made of it is no longer wanted.
        [*TOKENIZERS, *MODELS, "!results/*vocab_size=384*", *PAPERS, *MIRRORS],
        tokenizer={"train": {"vocab_size": 700}},
    ),
    "the size of the corpus": params(
        ["results/data/*/seed*", *TOKENIZERS, *MODELS, "results/evaluate/tasks", *PAPERS, *MIRRORS],
        data={"max_bytes": 500000},
    ),
    "the learning rate of finetuning": params(
        [*FINETUNED, *paper("migu", "chain"), *MIRRORS], continual={"finetune": {"lr": 0.002}}
    ),
    "the labelled tasks": params(
        ["results/data/tasks", *FINETUNED, *paper("migu", "chain"), *MIRRORS], continual={"tasks": {"max_test": 12}}
    ),
    "the evaluation tasks": params(
        ["results/evaluate/tasks", *SCORES, *paper("gstack", "chain"), *MIRRORS], evaluate={"tasks": {"max_items": 30}}
    ),
    "a default spelled out": params([], pretrain={"training": {"clip_grad": 1.0}}, tokenizer={"scaffold_bpe": {}}),
    "keys in another order, comments gone, numbers spelled otherwise": files([], sort_keys("params.yaml")),
    # Tables
    "a seed more in every table": params(["results/*/seed1", *PAPERS, *MIRRORS], seeds=2),
    "a seed more in one table": Row(
        ("results/moe/*/default/seed1", *paper("rmoe"), *MIRRORS),
        tuple(edit(f"papers/{key}/paper.yaml", "[0, 1, 2]", "[0]") for key in DEFAULT_PAPERS if key != "rmoe"),
        {"seeds": 2},
    ),
    "a method added, and a row that names it": files(
        ["results/moe/plain/default/seed0", *paper("rmoe"), *MIRRORS],
        copy("pipelines/moe/methods/topk.py", "pipelines/moe/methods/plain.py"),
        edit("params.yaml", "  topk: {}\n", "  topk: {}\n  plain: {}\n"),
        edit("papers/rmoe/paper.yaml", "    rows:\n", "    rows:\n      - {name: plain, method: plain}\n"),
    ),
    "a variant of a method added to a table": files(
        ["results/moe/rmoe/method.pass_state=False/seed0", *paper("rmoe"), *MIRRORS],
        edit(
            "papers/rmoe/paper.yaml",
            "    rows:\n",
            "    rows:\n      - {name: still, method: rmoe, with: {method.pass_state: false}}\n",
        ),
    ),
    "a reported number": files(paper("gstack"), edit("papers/gstack/reported.csv", ",2.151,", ",2.152,")),
    "a caption": files(paper("gstack"), edit("papers/gstack/paper.yaml", "Growth operators", "Operators")),
    "a claim": files(CLAIMS, edit("papers/gstack/paper.yaml", "metric: speedup", "metric: val_loss")),
    "a paper more, of runs that are there": Row(
        ("results/papers/again", "results/tables/again/*", *CLAIMS, "results/mlflow/*.json"),
        (copy("papers/rmoe", "papers/again"),),
        {"papers": [*DEFAULT_PAPERS, "again"]},
    ),
    "a paper less": params([*CLAIMS, *MIRRORS], papers=[key for key in DEFAULT_PAPERS if key != "migu"]),
    "papers in another order": params([*CLAIMS, "results/mlflow/*.json"], papers=DEFAULT_PAPERS[::-1]),
    # Code
    "a comment": files([], add(TRAINING, "# Said better.\n")),
    "a docstring": files([], edit(TRAINING, '"""Training from specs', '"""How to train from specs')),
    "another layout of the code": files([], reformat(TRAINING), reformat("pipelines/moe/methods/rmoe.py")),
    "a formula in one method": files(
        ["results/moe/rmoe/*", *paper("rmoe"), *MIRRORS],
        edit("pipelines/moe/methods/rmoe.py", "cell = 6 * p * p + 6 * p", "cell = 6 * p * p + 12 * p"),
    ),
    "a name in one method": files(
        ["results/continual/migu/*", "results/evaluate/continual/*", *paper("migu", "chain"), *MIRRORS],
        edit("pipelines/continual/methods/migu.py", "seed)", "seed=seed)"),
    ),
    "a formula that all training shares": files(
        [*MODELS, *PAPERS, *MIRRORS], edit("pipelines/megatron/flops.py", "BACKWARD_FACTOR = 3", "BACKWARD_FACTOR = 4")
    ),
    "how a table is rendered": files(
        [each for each in PAPERS if each != "results/claims.*"] + [*CLAIMS],
        edit("pipelines/tables/render.py", r"\textbackslash{}", r"\backslash{}"),
    ),
    "how a job is run and stored": files(
        [],
        *(add(f"pipelines/runs/{name}.py", "\nMORE = 1\n") for name in ("lifecycle", "store", "remote", "command")),
    ),
    "the help of a verb": files([], edit("pipelines/moe/verbs.py", 'help="', 'help="So: ')),
    "a method that no table names": files([], copy("pipelines/moe/methods/topk.py", "pipelines/moe/methods/plain.py")),
    "a file that nothing imports": files([], add("pipelines/moe/unused.py", "MORE = 1\n")),
    "words about it": files([], add("README.md", "More.\n"), add("papers/rmoe/README.md", "More.\n")),
    # Packages
    "the version of tokenizers": Row((*TOKENIZERS, *MODELS, *PAPERS, *MIRRORS), versions={"tokenizers": "99.0"}),
    "the version of the evaluation harness": Row(
        (*SCORES, *paper("gstack", "chain"), *MIRRORS), versions={"lm-eval": "99.0"}
    ),
    "the version of a package whose docstrings are the corpus": Row(
        ("results/*", "!results/data/source/*", "!results/mlflow/prepared"), versions={"matplotlib": "99.0"}
    ),
    "the version of a package that changes no result": Row((), versions={"rich": "99.0"}),
    "the environment files": files([], add("envs/cpu.yaml", "# Said better.\n"), add("envs/requirements.lock", "\n")),
    # How it runs
    "threads": execution("--set-threads", "moe=1", OMP_NUM_THREADS="4"),
    "cores": execution("--cores", "1"),
    "the ranks and the parallel layout": execution("--set-resources", "moe:ranks=1", "moe:expert_parallel=1"),
    "the device": files([], edit("workflow/rules/pretrain.smk", '{{\\"proc', '{{\\"device\\": \\"cpu\\", \\"proc')),
    "a cluster": execution("--profile", "workflow/profiles/slurm"),
    "the interval of checkpoints": execution(RETRACE_CHECKPOINT_SECONDS="7"),
    # Times and places
    "another folder": files([]),
    "touched files": files([], touch),
    "times of a fresh clone": files([], clone_times),
    "an artifact gone that nothing waits for": files([], remove("results/tokens/bpe/default/seed0")),
    "an artifact gone that a changed job waits for": Row(
        ("results/tokens/scaffold_bpe/default/*", "results/moe/rmoe/*", *paper("rmoe"), *MIRRORS),
        (remove("results/tokens/scaffold_bpe/default/seed0"),),
        {"moe": {"rmoe": {"recurrent_size": 4}}},
    ),
    "the notes of Snakemake gone": files([], remove(".snakemake")),
    "the notes of Snakemake, which are of another artifact": files([], note_another("results/moe/rmoe/default/seed0")),
    "the notes of Snakemake gone, and a hyper-parameter": Row(
        ("results/moe/rmoe/*", *paper("rmoe"), *MIRRORS),
        (remove(".snakemake"),),
        {"moe": {"rmoe": {"recurrent_size": 4}}},
    ),
}


@pytest.fixture(scope="module")
def outputs(finished_smoke: Path, snakemake: Snakemake) -> set[str]:
    """Every output of the graph as it is."""
    found = planned(snakemake(finished_smoke, "-n", "paper_tables", "--forceall"))
    assert len(found) > 70
    return found


def planned(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The outputs of all jobs that a dry run names."""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = re.findall(r"^    output: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return {path for line in lines for path in line.split(", ")}


def matching(patterns: Iterable[str], paths: set[str]) -> set[str]:
    wanted = [each for each in patterns if not each.startswith("!")]
    unwanted = [each[1:] for each in patterns if each.startswith("!")]
    for each in wanted + unwanted:
        assert any(fnmatchcase(path, each) for path in paths), f"{each} names nothing"
    found = {path for path in paths if any(fnmatchcase(path, each) for each in wanted)}
    return {path for path in found if not any(fnmatchcase(path, each) for each in unwanted)}


@pytest.mark.parametrize("change", ROWS)
def test_exactly_these_jobs_run_again_after_a_change_of(
    change: str, finished_smoke: Path, outputs: set[str], snakemake: Snakemake, tmp_path: Path
) -> None:
    row, checkout = ROWS[change], tmp_path / "checkout"
    subprocess.run(["cp", "-a", finished_smoke, checkout], check=True)
    for each in row.changes:
        each(checkout)
    for package, version in row.versions.items():
        metadata = tmp_path / "packages" / f"{package.replace('-', '_')}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", encoding="utf-8")
    environment = {"PYTHONPATH": str(tmp_path / "packages"), **row.environment}
    done = snakemake(
        checkout, "-n", "paper_tables", *row.arguments, overlay=row.overlay, environment=environment, timeout=120
    )
    found = planned(done)
    assert found == matching(row.jobs, outputs | found)
    assert bool(found) != ("Nothing to be done" in done.stdout + done.stderr)


def test_a_parameter_put_back_restores_everything_below_it_and_computes_nothing(
    finished_smoke: Path, snakemake: Snakemake, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    subprocess.run(["cp", "-a", finished_smoke, checkout], check=True)
    artifacts = ["tokenizer/scaffold_bpe", "tokens/scaffold_bpe", "moe/topk", "moe/rmoe"]
    records = [checkout / "results" / each / "default/seed0/run.json" for each in artifacts]
    records.append(checkout / "results/papers/rmoe/run.json")

    def run(**options: Any) -> str:
        done = snakemake(checkout, "results/papers/rmoe", **options)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stderr

    def read() -> list[dict[str, Any]]:
        return [json.loads(path.read_text(encoding="utf-8")) for path in records]

    before = read()
    said = run(overlay={"tokenizer": {"train": {"vocab_size": 700}}})
    assert "Artifacts: 5 computed in " in said
    assert "restored" not in said
    assert not {each["key"] for each in before} & {each["key"] for each in read()}
    said = run()
    assert "Artifacts: 5 restored from the store, which saved " in said
    assert [(each["key"], each["provenance"]) for each in read()] == [(each["key"], "restored") for each in before]
    assert not planned(snakemake(checkout, "-n", "paper_tables")) - set(_copies(checkout))


def _copies(checkout: Path) -> Iterable[str]:
    """What is copied or collected out of artifacts, once they have been made anew."""
    for pattern in ("results/tables/rmoe/*", *CLAIMS, *MIRRORS):
        yield from (str(path.relative_to(checkout)) for path in checkout.glob(pattern))
