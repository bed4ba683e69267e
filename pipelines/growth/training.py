"""``growth train``: grow a base model and train it on, or train the target from scratch, at the same FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.growth.matching import check_target, match_flops, shortened
from pipelines.growth.protocol import declared
from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.data import open_tokens
from pipelines.megatron.ledger import check_vocabulary, continuation
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.growth.protocol import GrowthMethod
    from pipelines.growth.spec import GrowthSpec
    from pipelines.megatron.spec import TrainingSpec
    from pipelines.runs.job import Job


def train(spec: GrowthSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Train the target model on the budget of ``training.train_iters`` steps from scratch.

    A grown model trains for the steps its base's FLOPs leave, on the sequences that come after the base's in the
    data order, with a fresh optimizer and a fresh schedule. Logged tokens and FLOPs include the base's.

    Raises:
        RetraceError: base, target, method and tokens do not fit each other.
    """
    method: GrowthMethod = load_method("growth", spec.method)
    base = inputs.get("base")
    if "base" in method.requires:
        assert base is not None, "the framework refuses a missing required input"
        return _train_grown(spec, method, base, inputs["tokens"], job)
    if base is not None:
        raise RetraceError(f"--base: method {spec.method['name']} grows nothing; leave it out")
    return _run(spec, spec.training, inputs["tokens"], job, {})


def _train_grown(
    spec: GrowthSpec, method: GrowthMethod, base: Path, tokens: Path, job: Job
) -> dict[str, float | int | str]:
    config, artifact = read_config(base), open_tokens(tokens)
    model = check_target(method, config, spec.model)
    check_vocabulary(config, artifact, "base")
    before = continuation(config, spec.model, spec.seed, "base")
    matched = match_flops(spec.model, spec.training, artifact.vocab_size, before["flops_offset"])
    training = shortened(spec.training, matched.train_iters)
    initial = dict(method.grow(model, read_tensors(base), spec.seed))
    job.say(
        f"grown from {model.num_layers} to {spec.model.num_layers} layers; {training.train_iters} steps of "
        f"{spec.training.train_iters} are left after the base's FLOPs"
    )
    final = _run(spec, training, tokens, job, {"initial": initial, **before})
    read = before["start_sequence"] + matched.train_iters * training.global_batch_size
    job.record(
        **declared(method, model),
        optimizer_policy=spec.optimizer_policy,
        train_iters=matched.train_iters,
        base_flops=matched.base_flops,
        flops_budget=matched.budget,
        flops_matched_within_steps=matched.within_steps,
        start_sequence=before["start_sequence"],
        # 0 unless base and target together read more than the corpus has.
        num_repeated_sequences=max(0, read - (artifact.splits["train"]["num_tokens"] - 1) // spec.model.seq_length),
    )
    return final


def _run(
    spec: GrowthSpec, training: TrainingSpec, tokens: Path, job: Job, options: dict[str, Any]
) -> dict[str, float | int | str]:
    # Loads megatron, so only once everything has been checked.
    from pipelines.megatron.training import train as train_model

    final = train_model(spec.model, None, training, spec.seed, tokens, job, **options)
    job.record(num_parameters=final["num_parameters"])
    return final
