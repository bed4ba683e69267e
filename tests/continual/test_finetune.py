"""The whole job, from folders to artifact, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pipelines.continual.metrics import sequence_metrics
from pipelines.continual.verbs import VERBS
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import read_metrics, read_record
from pipelines.runs.lifecycle import run_job

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "t5": "T5ForConditionalGeneration",
    "roberta": "RobertaForSequenceClassification",
}


def save_tokenizer(folder, family):
    """A byte-level tokenizer whose ids fit VOCAB, with the special tokens of each family."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<|endoftext|>", "<pad>", "<s>", "</s>"]
    letters = [*" abcdefghijklmnopqrstuvwxyzANW?,:0123456789\n"]
    alphabet = {pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(c)[0][0]: None for c in letters}
    vocabulary = {token: place for place, token in enumerate([*special, *list(alphabet)[:44]])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    names = {"eos_token": "<|endoftext|>"}
    if family == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 3), ("<s>", 2))
        names = {"eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def model_folder(tmp_path, make_model):
    def save(name: str):
        folder = tmp_path / f"{name}_model"
        model = make_model(name)
        model.save_pretrained(folder)
        save_tokenizer(folder, name)
        return folder

    return save


@pytest.fixture
def finetune(tmp_path, monkeypatch, task_folder, model_folder):
    """``finetune("llama", method=..., ...)`` runs the verb and returns the artifact's folder."""
    monkeypatch.setenv("RETRACE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("RETRACE_STORE", "off")
    count = iter(range(100))

    def run(name: str, model=None, tasks=None, execution="{}", **spec):
        out = tmp_path / f"out{next(count)}"
        values = {"method": "ft", "lr": 0.01, "batch_size": 4, "max_length": 60, **spec}
        inputs = {"model": model or model_folder(name), "tasks": tasks or task_folder}
        run_job("continual", "finetune", VERBS["finetune"], json.dumps(values), execution, inputs, out)
        return out

    return run


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_job_leaves_a_plain_model_a_full_matrix_and_final_metrics(name, adapter, finetune):
    import transformers

    out = finetune(name, method={"name": "migu", "policy": "restore"}, adapter=adapter, lora_rank=2)
    assert json.loads((out / "model" / "config.json").read_text())["architectures"] == [ARCHITECTURES[name]]
    model, report = getattr(transformers, ARCHITECTURES[name]).from_pretrained(out / "model", output_loading_info=True)
    assert not any(report.values())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert (out / "model" / "tokenizer.json").is_file()

    content = json.loads((out / "accuracy_matrix.json").read_text())
    assert content["tasks"] == ["colour", "animal"]
    assert content["num_test"] == [6, 6]
    assert [len(row) for row in content["accuracy"]] == [2, 2, 2]
    assert content["metrics"] == sequence_metrics(content["accuracy"])
    assert set(content["formulas"]) == set(content["metrics"])

    final = read_metrics(out)[-1]
    assert final.pop("final") is True
    assert final.pop("tokens") == read_record(out)["tokens"] > 0
    assert final.pop("masked_rows_leaked_share") == 0.0
    assert final == content["metrics"]


def test_two_runs_of_one_spec_are_byte_identical(finetune, model_folder):
    folder = model_folder("llama")
    one, other = (finetune("llama", model=folder, method="migu") for _ in range(2))
    for file in ("model/model.safetensors", "model/config.json", "accuracy_matrix.json", "metrics.jsonl"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code", "options"),
    [
        (signal.SIGKILL, -9, {"method": "ft"}),
        (signal.SIGKILL, -9, {"method": "migu", "adapter": "lora"}),
        (signal.SIGTERM, 143, {"method": "migu"}),
        (signal.SIGTERM, 143, {"method": "ft", "adapter": "lora"}),
    ],
)
def test_a_killed_process_leaves_no_artifact_and_the_next_one_ends_in_the_same_bytes(
    number, exit_code, options, finetune, model_folder, task_folder, tmp_path, root
):
    spec = {"method": "ft", "lr": 0.01, "batch_size": 4, "max_length": 60, "epochs": 30, **options}
    folder, out = model_folder("llama"), tmp_path / "killed"
    inputs = ["--model", folder, "--tasks", task_folder, "--out", out]
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "continual",
        "finetune",
        "--spec",
        json.dumps(spec),
        *map(str, inputs),
    ]
    job = subprocess.Popen(command, cwd=root, env={**os.environ, "RETRACE_CHECKPOINT_SECONDS": "0"})
    try:
        while len({path.parent for path in tmp_path.glob("work/*/step-*/state.json")}) < 2:
            assert job.poll() is None, "the job ended before it could be killed"
            time.sleep(0.01)
        job.send_signal(number)
        assert job.wait(60) == exit_code
    finally:
        job.kill()
    assert not out.exists()
    resumed = finetune("llama", model=folder, **spec)
    assert read_record(resumed)["resumed_from_step"] > 0
    assert not list(tmp_path.glob("work/*")), "a finished job leaves no checkpoints"
    whole = finetune("llama", model=folder, **spec)
    assert read_record(whole)["resumed_from_step"] is None
    for file in ("model/model.safetensors", "accuracy_matrix.json", "metrics.jsonl"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes(), file


def test_the_order_of_tasks_and_the_seed_change_the_outcome(finetune, model_folder):
    folder = model_folder("llama")
    plain, reordered, reseeded = (
        finetune("llama", model=folder, **change)
        for change in ({}, {"task_sequence": ["animal", "colour"]}, {"seed": 1})
    )
    assert json.loads((reordered / "accuracy_matrix.json").read_text())["tasks"] == ["animal", "colour"]
    weights = {(out / "model" / "model.safetensors").read_bytes() for out in (plain, reordered, reseeded)}
    assert len(weights) == 3


def test_a_masked_language_model_gets_a_new_classification_head(tmp_path, finetune, make_model):
    from transformers.models.roberta.modeling_roberta import RobertaForMaskedLM

    folder = tmp_path / "masked"
    RobertaForMaskedLM(make_model("roberta").config).save_pretrained(folder)
    save_tokenizer(folder, "roberta")
    out = finetune("roberta", model=folder)
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["architectures"] == ["RobertaForSequenceClassification"]
    assert config["id2label"] == {"0": "red", "1": "dark blue", "2": "cat", "3": "dog", "4": "owl"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"task_sequence": ["plant"]}, "unknown task plant; .* has colour, animal"),
        ({"task_sequence": ["colour", "colour"]}, "names a task twice"),
        ({"method": {"name": "migu", "threshold": 1.0}}, r"must be in \[0, 1\)"),
        ({"method": {"name": "migu", "threshold": -0.5}}, r"must be in \[0, 1\)"),
        ({"method": {"name": "migu", "policy": "thaw"}}, "continual.migu.policy must be"),
        ({"method": "ewc"}, "continual has no method 'ewc'; known: ft, migu"),
        ({"max_length": 20}, "leaves no room for the text of task colour"),
        ({"max_length": 100}, "exceeds the 64 positions"),
        ({"adapter": "lora", "lora_targets": ["query"]}, "no linear layer is named query"),
        ({"batch_size": 0}, "batch_size"),
        ({"epoch": 2}, "unknown key epoch"),
    ],
)
def test_wrong_specs_are_refused_on_one_line_and_leave_nothing(spec, message, finetune, tmp_path):
    with pytest.raises(RetraceError, match=message) as refused:
        finetune("llama", **spec)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*out*"))


def test_wrong_executions_and_folders_are_refused(finetune, model_folder, tmp_path):
    with pytest.raises(RetraceError, match="finetuning runs in one process"):
        finetune("llama", execution='{"processes": 2}')
    with pytest.raises(RetraceError, match="choose auto, cpu or cuda"):
        finetune("llama", execution='{"device": "tpu"}')
    folder = model_folder("llama")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(RetraceError, match=r"tokenizer\.json: no such file"):
        finetune("llama", model=folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RetraceError, match=r"tokenizer\.json: damaged"):
        finetune("llama", model=folder)
    (folder / "config.json").write_text('{"architectures": ["GPTModel"]}')
    with pytest.raises(RetraceError, match="architecture GPTModel is not a transformers class"):
        finetune("llama", model=folder)
    (folder / "config.json").unlink()
    with pytest.raises(RetraceError, match=r"config\.json: no such file"):
        finetune("llama", model=folder)


def test_a_tokenizer_larger_than_the_model_is_refused(finetune, make_model, tmp_path):
    folder = tmp_path / "small"
    make_model("llama", vocab_size=20).save_pretrained(folder)
    save_tokenizer(folder, "llama")
    with pytest.raises(RetraceError, match=r"gives id \d+, the model embeds 20"):
        finetune("llama", model=folder)
