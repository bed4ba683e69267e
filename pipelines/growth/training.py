"""``growth train``: grow a base model and train it on, or train the target from scratch, at the same FLOPs."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.growth.data_ledger import place_data
from pipelines.growth.matching import check_target, match_flops
from pipelines.growth.protocol import MaskedGrowthMethod, at_growth, declared
from pipelines.growth.schedules import restarted_scratch, schedule_after_growth
from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.data import TrainingWindows, open_tokens
from pipelines.megatron.ledger import check_vocabulary, continuation
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipelines.growth.matching import Matched
    from pipelines.growth.protocol import GrowthMethod
    from pipelines.growth.slices import Shape
    from pipelines.growth.spec import GrowthSpec
    from pipelines.megatron.spec import TrainingSpec
    from pipelines.runs.job import Job


def train(spec: GrowthSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Train the target model on the budget of ``training.train_iters`` steps from scratch.

    A grown model trains for the steps its base's FLOPs leave, with optimizer, learning rate and data by the spec's
    policies. Logged tokens and FLOPs include the base's.

    Raises:
        RetraceError: base, target, method, policies and tokens do not fit each other, or the method changes a function
            that it declares preserved; nothing is written.
    """
    method: GrowthMethod = load_method("growth", spec.method)
    base = inputs.get("base")
    if "base" not in method.requires:
        if base is not None:
            raise RetraceError(f"--base: method {spec.method['name']} grows nothing; leave it out")
        return _run(spec, spec.training, inputs["tokens"], job, {})
    assert base is not None, "the framework refuses a missing required input"
    if method.axis == "none":
        return _train_control(spec, base, inputs["tokens"], job)
    return _train_grown(spec, method, base, inputs["tokens"], job)


def _train_grown(
    spec: GrowthSpec, method: GrowthMethod, base: Path, tokens: Path, job: Job
) -> dict[str, float | int | str]:
    from pipelines.growth.learning import LearnedGrowthMethod, learn, learning_cost
    from pipelines.growth.optimizer_state import describe_state, grown_state
    from pipelines.growth.slices import Shape

    config, artifact = read_config(base), open_tokens(tokens)
    model = check_target(method, config, spec.model)
    check_vocabulary(config, artifact, "base")
    before = continuation(config, spec.model, spec.seed, "base")
    base_tokens, base_shape, target = before["tokens_offset"], Shape(model), Shape(spec.model)
    cost = learning_cost(method, base_shape, target, artifact.vocab_size)
    learnt_from = before["start_sequence"]
    before = {
        "start_sequence": before["start_sequence"] + cost.num_sequences,
        "tokens_offset": before["tokens_offset"] + cost.tokens,
        "flops_offset": before["flops_offset"] + cost.flops,
    }
    matched = match_flops(spec.model, spec.training, artifact.vocab_size, before["flops_offset"])
    schedule = schedule_after_growth(spec.schedule_policy, spec.training, matched.train_iters, config)
    sequences = matched.train_iters * spec.training.global_batch_size
    epoch = (artifact.splits["train"]["num_tokens"] - 1) // spec.model.seq_length
    ledger = place_data(spec.data_policy, before["start_sequence"], sequences, epoch)
    optimizer_state = grown_state(spec.optimizer_policy, method, model, base, spec.seed)
    if isinstance(method, LearnedGrowthMethod):
        windows = TrainingWindows(artifact.split("train").tokens, spec.model.seq_length, spec.seed, learnt_from)
        method = learn(method, base_shape, target, read_tensors(base), windows.sequences, spec.seed, job)
    initial = dict(method.grow(model, read_tensors(base), spec.seed))
    measured = _certified(method, base_shape, base, target, initial, spec.seed, job) if spec.certify else {}
    job.say(
        f"grown from {model.num_layers} to {spec.model.num_layers} layers; {matched.train_iters} steps of "
        f"{spec.training.train_iters} are left after the base's FLOPs"
    )
    masks = partial(method.masks, model) if isinstance(method, MaskedGrowthMethod) else None
    options = {
        **before,
        "start_sequence": ledger.start_sequence,
        "schedule": schedule,
        "masks": masks,
        # Where the loss is followed on the way, it is also measured as growth has left it.
        "evaluate_start": spec.training.eval_interval is not None,
    }
    final = _run(
        spec, _of_length(spec, matched), tokens, job, options, initial=initial, optimizer_state=optimizer_state
    )
    job.record(
        **declared(method, model),
        **describe_state(spec.optimizer_policy, optimizer_state),
        schedule_policy=spec.schedule_policy,
        data_policy=spec.data_policy,
        **_describe_budget(matched),
        # Of these, what learning the growth has cost; 0 for most methods.
        learning_flops=cost.flops,
        **asdict(ledger),
    )
    shown = {name: value for name, value in method.facts(model).items() if name == "connection_rate"}
    return {**final, "base_tokens": base_tokens, **measured, **shown}


def _certified(
    method: GrowthMethod, base: Shape, path: Path, target: Shape, initial: dict[str, Tensor], seed: int, job: Job
) -> dict[str, float]:
    """Measure the growth that training starts from, on the first rank; the others wait at their first collective."""
    from pipelines.growth.certificate import certify

    if not job.is_main:
        return {}
    now = {name: at_growth(method, base.model, name, tensor) for name, tensor in initial.items()}
    certificate = certify(method, base, read_tensors(path), target, now, seed)
    job.record(certificate=certificate.facts())
    return certificate.metrics()


def _train_control(spec: GrowthSpec, base: Path, tokens: Path, job: Job) -> dict[str, float | int | str]:
    if (spec.optimizer_policy, spec.schedule_policy) != ("fresh", "restart"):
        raise RetraceError(
            "method scratch_restart is the control of optimizer_policy fresh and schedule_policy restart, not of "
            f"{spec.optimizer_policy} and {spec.schedule_policy}: give its row these two, or leave it out"
        )
    artifact, config = open_tokens(tokens), read_config(base)
    matched = match_flops(spec.model, spec.training, artifact.vocab_size, config.get("flops_spent", 0))
    schedule = restarted_scratch(spec.training, matched.train_iters)
    final = _run(spec, spec.training, tokens, job, {"schedule": schedule})
    job.record(restart_after=schedule.parts[0].train_iters, **_describe_budget(matched))
    return final


def _of_length(spec: GrowthSpec, matched: Matched) -> TrainingSpec:
    # The schedule says how the learning rate goes; the rest of the training is scratch's.
    return spec.training.model_copy(update={"train_iters": matched.train_iters})


def _describe_budget(matched: Matched) -> dict[str, float | int]:
    return {
        "train_iters": matched.train_iters,
        "base_flops": matched.base_flops,
        "flops_budget": matched.budget,
        "flops_matched_within_steps": matched.within_steps,
    }


def _run(
    spec: GrowthSpec, training: TrainingSpec, tokens: Path, job: Job, options: dict[str, Any], **start: Any
) -> dict[str, float | int | str]:
    # Loads megatron, so only once everything has been checked.
    from pipelines.megatron.training import train as train_model

    final = train_model(spec.model, None, training, spec.seed, tokens, job, **options, **start)
    job.record(num_parameters=final["num_parameters"])
    return final
