"""How long a grown model may train: as many steps as make base and target together cost what scratch costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.megatron.flops import training_flops_per_token
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.growth.protocol import GrowthMethod
    from pipelines.megatron.spec import TrainingSpec


@dataclass(frozen=True)
class Matched:
    """A training length whose cost, the base's included, is the budget's to within half a step.

    Attributes:
        train_iters: optimiser steps of the grown model.
        budget: FLOPs of training the target from scratch.
        base_flops: FLOPs the base model has cost.
        within_steps: distance from the budget, in steps of the target (at most 0.5).
    """

    train_iters: int
    budget: int
    base_flops: int
    within_steps: float


def match_flops(model: ModelSpec, training: TrainingSpec, vocab_size: int, base_flops: int) -> Matched:
    """Steps of the target that base_flops leaves of the scratch run's budget.

    Raises:
        RetraceError: the base has cost the whole budget.
    """
    step = training.global_batch_size * model.seq_length * training_flops_per_token(model, vocab_size)
    budget = training.train_iters * step
    steps = (2 * (budget - base_flops) + step) // (2 * step)
    if steps < 1:
        raise RetraceError(
            f"--base, and learning how to grow it where the method does, cost {base_flops:.3g} FLOPs, and the budget "
            f"of {training.train_iters} scratch steps is {budget:.3g}: raise training.train_iters, or spend less before"
        )
    return Matched(steps, budget, base_flops, abs(base_flops + steps * step - budget) / step)


def check_target(method: GrowthMethod, base: dict[str, Any], target: ModelSpec) -> ModelSpec:
    """The base's shape, if growing it by the method gives exactly the target.

    Args:
        base: config.json of the base's checkpoint.

    Raises:
        RetraceError: a mixture of experts, or the first key that disagrees.
    """
    if base["experts"] is not None:
        raise RetraceError("--base is a mixture of experts: growth train takes a dense base model")
    model = ModelSpec.model_validate(base["model"])
    grown = method.target(model)
    if grown.num_layers < model.num_layers:
        raise RetraceError(f"growth to fewer layers: {model.num_layers} to {grown.num_layers}; choose a larger target")
    if grown.num_layers != target.num_layers:
        raise RetraceError(
            f"model.num_layers is {target.num_layers}, but growing the {model.num_layers} layers of --base gives "
            f"{grown.num_layers}: change model.num_layers or the method's growth_factor or stacking_list"
        )
    for key, value in grown.model_dump().items():
        # The standard deviation of initial weights shapes nothing, and none are drawn.
        if key != "init_method_std" and getattr(target, key) != value:
            raise RetraceError(
                f"model.{key} is {getattr(target, key)}, but growing --base gives {value}: "
                "grow a base of the same architecture, or change the target"
            )
    return model
