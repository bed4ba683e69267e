"""The Slurm profile: what it says of every rule, and a part of the graph on a real cluster of two nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.runs.job import read_metrics, read_record
from tests.workflow.slurm_cluster import NODES, Cluster, missing, two_nodes

PROFILE = Path("workflow/profiles/slurm")
TARGET = "results/moe/topk/default/seed0"
TOKENS = "results/tokens/scaffold_bpe/default/seed0"


@pytest.fixture(scope="module")
def resources(root: Path) -> dict[str, dict[str, Any]]:
    """Rule name -> what the profile asks for it."""
    return yaml.safe_load((root / PROFILE / "config.yaml").read_text(encoding="utf-8"))["set-resources"]


def test_every_rule_that_slurm_runs_has_its_memory_and_time(root: Path, resources: dict[str, dict[str, Any]]) -> None:
    rules = "\n".join(path.read_text(encoding="utf-8") for path in sorted((root / "workflow" / "rules").glob("*.smk")))
    blocks = {block.partition(":")[0]: block for block in re.split(r"^rule ", rules, flags=re.MULTILINE)[1:]}
    submitted = {name for name, block in blocks.items() if "shell:" in block and "localrule: True" not in block}
    assert set(resources) == submitted
    assert [name for name, each in resources.items() if not {"mem_mb", "runtime"} <= set(each)] == []


def test_the_launcher_starts_as_many_tasks_on_as_many_nodes_as_slurm_was_asked_for(
    resources: dict[str, dict[str, Any]],
) -> None:
    launched = {name: each for name, each in resources.items() if each.get("ranks", 1) > 1}
    assert "moe" in launched
    for name, each in launched.items():
        sizes = {key: int(value) for key, value in re.findall(r"--(\S+)=(\d+)", each["launcher"])}
        assert (sizes["ntasks"], each["tasks"]) == (each["ranks"], each["ranks"]), name
        assert (sizes["nodes"], sizes["cpus-per-task"]) == (each["nodes"], each["cpus_per_task"]), name
        assert each["mpi"] == "srun", "or Snakemake's job step would be one task of its own"


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_experts_over_two_nodes_of_a_slurm_cluster_learn_as_on_one_machine(checkout: Path, run_cli: Any) -> None:
    # Paths of sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, two_nodes(Path(folder) / "cluster") as cluster:
        done = _snakemake(checkout, cluster)
        assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}\n{cluster.logs()}"
        jobs = {each["Comment"].split("_")[1]: each for each in cluster.jobs()}
        tasks = {name: (cluster.folder / f"slurmd-{name}.log").read_text(encoding="utf-8") for name in NODES}
    assert {name: each["JobState"] for name, each in jobs.items()} == dict.fromkeys(
        ("corpus", "tokenizer", "tokens", "moe"), "COMPLETED"
    )
    assert {
        name: (each["NumNodes"], each["NumTasks"]) for name, each in jobs.items() if name != "moe"
    } == dict.fromkeys(("corpus", "tokenizer", "tokens"), ("1", "1"))
    experts = jobs["moe"]
    assert (experts["NodeList"], experts["NumTasks"], experts["CPUs/Task"]) == ("n[1-2]", "2", "1")
    assert (experts["MinMemoryNode"], experts["TimeLimit"]) == ("4000M", "04:00:00"), "a site's options left them alone"
    for name, log in tasks.items():
        assert f"launch task StepId={experts['JobId']}.0" in log, f"no rank on {name}"

    record = read_record(checkout / TARGET)
    assert (record["world_size"], record["expert_model_parallel_size"], record["backend"]) == (2, 2, "gloo")
    run_cli(
        "moe",
        "train",
        "--tokens",
        TOKENS,
        "--out",
        "alone",
        spec=record["spec"],
        execution={"processes": 2, "expert_model_parallel_size": 2},
        cwd=checkout,
    )
    assert read_record(checkout / "alone")["key"] == record["key"]
    on_cluster, alone = (read_metrics(folder) for folder in (checkout / TARGET, checkout / "alone"))
    assert len(on_cluster) == len(alone) > 6
    for line, expected in zip(on_cluster, alone, strict=True):
        losses = [key for key in expected if key.endswith("loss")]
        assert losses, expected
        assert [line[key] for key in losses] == pytest.approx([expected[key] for key in losses], rel=1e-6)


def _snakemake(checkout: Path, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(cluster.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    # Names and interfaces of nodes are a site's; these nodes are one machine, and n1 is no name that resolves.
    environment = {**os.environ, "PATH": path, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    for name in ("RETRACE_WORK", "MLFLOW_TRACKING_URI", "PYTEST_CURRENT_TEST", "MASTER_PORT"):
        environment.pop(name, None)
    # The last two options are a site's: the partition, and here a hurry that clusters do not have.
    options = ["--default-resources", "slurm_partition=main", "--slurm-init-seconds-before-status-checks", "2"]
    return subprocess.run(
        ["snakemake", TARGET, "--profile", str(PROFILE), "--configfile", "params/smoke.yaml", *options],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
