"""Bad input to the graph: one clear message that names the key or file, before any job starts, nothing left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

OVERLAYS = {
    "unknown block": ({"pretraining": {}}, ["pretraining", "unknown key"]),
    "unknown key": (
        {"pretrain": {"training": {"learning_rate": 1}}},
        ["pretrain.training.learning_rate", "unknown key"],
    ),
    "unknown hyper-parameter": (
        {"moe": {"rmoe": {"recurent_size": 8}}},
        ["moe.rmoe", "recurent_size", "recurrent_size"],
    ),
    "ill-typed": ({"pretrain": {"training": {"train_iters": "many"}}}, ["pretrain.training.train_iters", "many"]),
    "ill-typed method": ({"growth": {"stack": {"growth_factor": "two"}}}, ["growth.stack.growth_factor", "two"]),
    "unknown paper": ({"papers": ["gstak"]}, ["gstak", "gstack"]),
    "heads": ({"pretrain": {"model": {"hidden_size": 30, "num_attention_heads": 4}}}, ["hidden_size 30", "heads 4"]),
    "experts": ({"moe": {"experts": {"num_moe_experts": 3}}}, ["expert_model_parallel_size 2", "num_moe_experts 3"]),
    "missing folder": (
        {"data": {"source": "local"}, "folders": {"corpus": "nowhere"}},
        ["nowhere", "no such file or folder"],
    ),
    "no folder": ({"data": {"source": "local"}}, ["folders.corpus"]),
}


@pytest.mark.parametrize("fault", OVERLAYS)
def test_a_bad_parameter_stops_the_graph_before_any_job(checkout: Path, snakemake: Snakemake, fault: str) -> None:
    overlay, words = OVERLAYS[fault]
    done = snakemake(checkout, "paper_tables", overlay=overlay)
    _refused(done, words)
    assert not (checkout / "results").exists()


def test_a_table_that_names_an_unknown_method_is_refused_by_file_and_key(checkout: Path, snakemake: Snakemake) -> None:
    path = checkout / "papers" / "rmoe" / "paper.yaml"
    text = path.read_text(encoding="utf-8")
    assert "method: rmoe" in text
    path.write_text(text.replace("method: rmoe", "method: rmeo"), encoding="utf-8")
    _refused(snakemake(checkout, "paper_tables"), ["papers/rmoe/paper.yaml", "rmeo", "topk"])
    assert not (checkout / "results").exists()


def test_a_world_size_the_machine_cannot_start_is_refused_before_any_job(checkout: Path, snakemake: Snakemake) -> None:
    done = snakemake(checkout, "paper_tables", "--set-resources", "moe:ranks=512")
    _refused(done, ["512", "processes"])
    assert not (checkout / "results").exists()


def test_an_empty_corpus_folder_stops_the_graph_before_any_training(
    checkout: Path, snakemake: Snakemake, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    overlay = {"data": {"source": "local"}, "folders": {"corpus": str(tmp_path / "empty")}}
    _refused(snakemake(checkout, "paper_tables", overlay=overlay), ["--folder", "empty", ".txt or .jsonl"])
    assert not list((checkout / "results").glob("data/prose/*"))
    assert not (checkout / "results" / "pretrain").exists()


def _refused(done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    for word in words:
        assert word in said, said
    assert "Traceback" not in said, said
