"""Training tokens a second of the megatron path against transformers' LlamaForCausalLM in eager mode.

Same shape, dtype, data and threads; pairs alternate, so that what else the machine does hits both alike; medians over
rounds. Seconds are CPU seconds of the process (one thread: wall seconds of a quiet machine). Prints one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/training_speed.py [--rounds 30] [--steps 1] [--wall]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from pipelines.megatron import backend
from pipelines.megatron.flops import training_flops_per_token
from pipelines.megatron.model import build_model
from pipelines.megatron.products import product
from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.megatron.stepping import start, take_step
from pipelines.runs.verb import Execution

VOCAB, BATCH = 2048, 16
MODEL = ModelSpec(
    num_layers=4, hidden_size=128, ffn_hidden_size=344, num_attention_heads=4, num_query_groups=4, seq_length=128
)
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=344)
TOKENS = BATCH * MODEL.seq_length


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        tokens = torch.randint(0, VOCAB, (BATCH, MODEL.seq_length + 1), generator=generator)
        yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def ours(precision: str, experts: ExpertSpec | None = None) -> Callable[[], None]:
    training = TrainingSpec(train_iters=10**6, global_batch_size=BATCH, lr=1e-3, precision=precision)
    state, data = start(build_model(MODEL, VOCAB, experts), training), batches()
    return lambda: take_step(state, data, training, BATCH)


def theirs(precision: str) -> Callable[[], None]:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=MODEL.hidden_size,
            intermediate_size=MODEL.ffn_hidden_size,
            num_hidden_layers=MODEL.num_layers,
            num_attention_heads=MODEL.num_attention_heads,
            num_key_value_heads=MODEL.num_query_groups,
            max_position_embeddings=MODEL.seq_length,
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    data = batches()

    def step() -> None:
        inputs, labels = next(data)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def peak(precision: str, size: int = 1024) -> Callable[[], None]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)

    def multiply() -> None:
        product(left, right)

    return multiply


def median_seconds(runs: dict[str, Callable[[], None]], rounds: int, steps: int, clock: Callable[[], float]) -> dict:
    """name -> seconds of each round, a step; the runs alternate within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            began = clock()
            for _ in range(steps):
                run()
            seconds[name].append((clock() - began) / steps)
    return seconds


def measure(precision: str, rounds: int, steps: int, clock: Callable[[], float]) -> dict[str, float]:
    runs = {
        "ours": ours(precision),
        "theirs": theirs(precision),
        "experts": ours(precision, EXPERTS),
        "peak": peak(precision),
    }
    seconds = median_seconds(runs, rounds, steps, clock)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    peak_flops = 2 * 1024**3 / medians["peak"]
    return {
        "megatron_tokens_per_second": round(TOKENS / medians["ours"]),
        "transformers_tokens_per_second": round(TOKENS / medians["theirs"]),
        "experts_tokens_per_second": round(TOKENS / medians["experts"]),
        "ratio": round(statistics.median(ratios), 3),
        "matmul_peak_gflops": round(peak_flops / 1e9, 1),
        "share_of_peak": round(TOKENS * training_flops_per_token(MODEL, VOCAB) / medians["ours"] / peak_flops, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="wall seconds in place of CPU seconds")
    arguments = parser.parse_args()
    backend.initialize(Execution(processes=1))
    clock = time.perf_counter if arguments.wall else time.process_time
    results = {each: measure(each, arguments.rounds, arguments.steps, clock) for each in ("fp32", "bf16")}
    shape = {"batch": BATCH, "vocab_size": VOCAB, **MODEL.model_dump()}
    print(json.dumps({"training_speed": results, "shape": shape, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
