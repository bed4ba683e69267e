"""The learning rate after growth, by policy.

T is the scratch run's number of steps and R of them are left after the base's FLOPs.

- ``restart``: warm-up and the whole decay anew over R steps, as in the code of arXiv 2405.15319.
- ``continue``: step k runs at the rate that scratch has at the same FLOPs, lr(T - R + k); no second warm-up.
- ``rewarm``: as ``continue``, scaled by k / lr_warmup_iters over the first steps.
- ``WSD``: growth in the stable phase of warm-up, stable, decay (MiniCPM, arXiv 2404.06395): the base must have ended
  at ``lr``; the grown model goes on at it and decays over the last lr_wsd_decay_iters steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.megatron.schedule import Schedule
from pipelines.megatron.spec import TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import parse_spec

if TYPE_CHECKING:
    from pipelines.growth.spec import SchedulePolicy


def schedule_after_growth(
    policy: SchedulePolicy, training: TrainingSpec, train_iters: int, base: dict[str, Any]
) -> Schedule:
    """The schedule of the ``train_iters`` steps after growth.

    Args:
        training: the scratch run's.
        base: config.json of the base's checkpoint.

    Raises:
        RetraceError: warm-up or decay do not fit the steps, or the base is in no stable phase (``WSD``).
    """
    over = training.train_iters - train_iters
    if policy == "restart":
        return Schedule((shortened(training, train_iters),))
    if policy == "continue":
        return Schedule((training,), over)
    if policy == "rewarm":
        if training.lr_warmup_iters >= train_iters:
            raise RetraceError(
                f"schedule_policy rewarm: training.lr_warmup_iters {training.lr_warmup_iters} must be below the "
                f"{train_iters} steps that the base's FLOPs leave"
            )
        return Schedule((training,), over, training.lr_warmup_iters)
    if training.lr_decay_style != "WSD":
        raise RetraceError(
            f"schedule_policy WSD needs training.lr_decay_style WSD, not {training.lr_decay_style}, and "
            "training.lr_wsd_decay_iters"
        )
    last = base.get("last_lr")
    if last is None or abs(last - training.lr) > 1e-9 * training.lr:
        found = "has no record of its learning rate" if last is None else f"ended at learning rate {last:.4g}"
        raise RetraceError(
            f"schedule_policy WSD grows in the stable phase, but --base {found} and training.lr is {training.lr:.4g}: "
            "train the base with lr_decay_style constant at the same lr"
        )
    return Schedule((_cut(training, train_iters, lr_warmup_iters=0),))


def restarted_scratch(training: TrainingSpec, train_iters: int) -> Schedule:
    """Scratch with a restart where a grown model would begin: a whole schedule up to there, and one for the rest.

    Args:
        train_iters: steps that the grown model would have.

    Raises:
        RetraceError: a part is shorter than the warm-up.
    """
    over = training.train_iters - train_iters
    if over < 1:
        raise RetraceError("--base has cost less than half a step of the target: there is nothing to restart after")
    return Schedule((_cut(training, over), _cut(training, train_iters)))


def shortened(training: TrainingSpec, train_iters: int) -> TrainingSpec:
    """The scratch run's training, over the steps that are left: the schedule is stretched over them anew.

    Raises:
        RetraceError: the warm-up or the decay no longer fits.
    """
    return _cut(training, train_iters)


def _cut(training: TrainingSpec, train_iters: int, **changes: int) -> TrainingSpec:
    values = {**training.model_dump(), "train_iters": train_iters, **changes}
    over = training.train_iters - train_iters
    spec = parse_spec(TrainingSpec, values, f"training, over {train_iters} steps ({over} go to the base's FLOPs)")
    assert isinstance(spec, TrainingSpec)
    return spec
