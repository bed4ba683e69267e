import json
import math

import pytest
import torch
from torch.nn import functional

from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.runs.verb import Execution

MODEL = ModelSpec(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)
EXPERTS = ExpertSpec(num_moe_experts=2, moe_router_topk=1, moe_ffn_hidden_size=16)


def training(**options):
    return TrainingSpec(**{"train_iters": 4, "global_batch_size": 4, "lr": 0.01, "precision": "fp32", **options})


def train(tokens, out, experts=None, execution=None, **options):
    from pipelines.megatron import training as module

    keys = TrainingSpec.model_fields
    spec = training(**{key: options.pop(key) for key in list(options) if key in keys})
    out.mkdir()
    job = Job(out, "key", Execution(**(execution or {})))
    final = module.train(MODEL, experts, spec, 0, tokens, job, **options)
    job.close()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return final, lines, job.facts


@pytest.fixture(scope="module", autouse=True)
def _leave_no_process_group():
    yield
    from pipelines.megatron import backend

    backend.shutdown()


def test_the_checkpoint_gives_the_validation_loss_and_bits_per_byte(tokens, tmp_path):
    from pipelines.megatron.data import evaluation_windows, open_tokens
    from pipelines.megatron.model import build_model

    final, lines, facts = train(tokens, tmp_path / "run")
    model = build_model(MODEL, 96, initial=read_tensors(tmp_path / "run"))
    text = evaluation_windows(open_tokens(tokens), 16)
    nats = functional.cross_entropy(model(text.inputs).flatten(0, 1), text.labels.flatten(), reduction="sum").item()
    assert final["val_loss"] == pytest.approx(nats / text.num_tokens, rel=1e-5)
    num_bytes = json.loads((tokens / "tokens.json").read_text())["splits"]["validation"]["num_bytes"]
    assert final["val_bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert lines[-1]["val_loss"] == final["val_loss"]
    assert facts["world_size"] == 1
    assert facts["tokens"] == final["tokens"] == 4 * 4 * 16


def test_two_runs_write_the_same_bytes(tokens, tmp_path):
    for name in ("one", "two"):
        train(tokens, tmp_path / name, precision="bf16")
    for file in sorted(each.name for each in (tmp_path / "one").iterdir()):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_the_micro_batch_of_a_dense_model_is_execution(tokens, tmp_path):
    finals = [train(tokens, tmp_path / str(n), execution={"micro_batch_size": n})[0] for n in (1, 4)]
    assert finals[0]["train_loss"] == pytest.approx(finals[1]["train_loss"], rel=1e-6)


def test_train_loss_is_the_mean_of_the_last_window_and_steps_carry_their_cost(tokens, tmp_path):
    _, every, _ = train(tokens, tmp_path / "every", train_iters=5, log_interval=1)
    final, some, _ = train(tokens, tmp_path / "some", train_iters=5, log_interval=3, eval_interval=2)
    losses = [line["loss"] for line in every if "loss" in line]
    assert [line["step"] for line in some if "loss" in line] == [3, 5]
    assert [line["step"] for line in some if "val_loss" in line] == [2, 4, 5]
    assert final["train_loss"] == pytest.approx(sum(losses[3:]) / 2, rel=1e-6)
    assert [line["tokens"] for line in every if "loss" in line] == [64 * step for step in range(1, 6)]
    assert all(line["flops"] == line["tokens"] * every[0]["flops"] // 64 for line in every)


def test_a_run_from_a_checkpoint_goes_on_from_its_weights_cost_and_data(tokens, tmp_path):
    base, _, _ = train(tokens, tmp_path / "base")
    config = read_config(tmp_path / "base")
    assert (config["tokens_seen"], config["flops_spent"], config["next_sequence"]) == (
        base["tokens"],
        base["flops"],
        16,
    )
    final, lines, _ = train(
        tokens,
        tmp_path / "more",
        train_iters=1,
        lr=1e-9,
        initial=read_tensors(tmp_path / "base"),
        tokens_offset=base["tokens"],
        flops_offset=base["flops"],
        start_sequence=config["next_sequence"],
    )
    # A step too small to move anything: the validation loss is the base model's.
    assert final["val_loss"] == pytest.approx(base["val_loss"], rel=1e-5)
    assert final["tokens"] == base["tokens"] + 64
    assert final["flops"] == base["flops"] * 5 // 4
    assert read_config(tmp_path / "more")["next_sequence"] == 20
    assert lines[0]["tokens"] == final["tokens"]


def test_experts_need_a_micro_batch_and_report_what_is_active(tokens, tmp_path):
    with pytest.raises(RetraceError, match="needs micro_batch_size"):
        train(tokens, tmp_path / "none", EXPERTS)
    final, lines, _ = train(tokens, tmp_path / "some", EXPERTS, micro_batch_size=2, log_interval=2)
    assert final["num_parameters"] - final["num_active_parameters"] == 2 * 3 * 32 * 16
    # N sum f P is 1 at balance; between 1 and N for top-1 of N = 2.
    assert all(0.9 < line["load_balancing_loss"] <= 2 for line in lines if "loss" in line)
    assert read_config(tmp_path / "some")["experts"] == EXPERTS.model_dump()


def test_a_watcher_sees_the_validation_text_and_adds_to_the_metrics(tokens, tmp_path):
    class Count:
        def __init__(self, model):
            self.calls = 0
            self.handle = model.register_forward_pre_hook(self.see)

        def see(self, *_):
            self.calls += 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.handle.remove()

        def metrics(self):
            return {"passes": self.calls}

    final, lines, _ = train(
        tokens, tmp_path / "run", watch=Count, on_log=lambda model: {"layers": len(model.decoder.layers)}
    )
    assert final["passes"] == math.ceil(math.ceil(6 * 71 / 16) / 4)
    assert lines[0]["layers"] == final["layers"] == 2
    assert torch.is_grad_enabled()
