"""Trains dense and mixture-of-experts models under several layouts; the layout test starts it with torchrun.

Usage: layout_job.py TOKENS OUT JSON, JSON a list of {"name", "experts": bool, "execution": {...}}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.megatron.training import train
from pipelines.runs.job import Job
from pipelines.runs.ranks import leave
from pipelines.runs.verb import Execution

MODEL = ModelSpec(
    num_layers=2, hidden_size=32, ffn_hidden_size=64, num_attention_heads=4, num_query_groups=2, seq_length=16
)
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=32, moe_aux_loss_coeff=0.01)
TRAINING = TrainingSpec(
    train_iters=20,
    global_batch_size=8,
    lr=0.01,
    min_lr=0.001,
    lr_warmup_iters=2,
    precision="fp32",
    log_interval=1,
    save_optim=True,
)


def run(tokens: Path, out: Path, jobs: list[dict]) -> None:
    for each in jobs:
        folder = out / each["name"]
        job = Job(folder, each["name"], Execution(micro_batch_size=2, **each["execution"]))
        if job.is_main:
            folder.mkdir(parents=True)
        experts = EXPERTS if each["experts"] else None
        final = train(MODEL, experts, TRAINING, 1, tokens, job, micro_batch_size=2 if experts else None)
        job.log(final=True, **final)
        job.close()
        if job.is_main:
            (folder / "facts.json").write_text(json.dumps(job.facts), encoding="utf-8")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    leave()  # as jobs do: gloo's threads may abort an interpreter that is torn down
