"""``forecast predict``: a law fitted to early evaluations, held against the later ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.forecast.protocol import FEWEST_EVALUATIONS, Forecast, ForecastMethod, Place
from pipelines.megatron.position_losses import Evaluation, read_position_losses
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pipelines.forecast.spec import PredictSpec
    from pipelines.runs.job import Job

FITTED = "forecast.json"


def predict(spec: PredictSpec, inputs: dict[str, Path], job: Job) -> dict[str, Any]:
    """Write forecast.json, and a line for each evaluation with the measured and the forecast loss.

    Returns:
        forecast_error: mean of |forecast - measured| / measured over the evaluations after the cut;
        final_forecast_error: the same of the last of them;
        fit_error: the same over those the law was fitted to;
        num_seen and num_forecast: how many there are. Errors are None where too few are seen to fit a law.
    """
    series = one_text(read_position_losses(inputs["run"]))
    seen, later = split(series, spec.cut)
    method: ForecastMethod = load_method("forecast", spec.method)
    places = [Place(each.tokens, each.lr) for each in series]
    if len(seen) < FEWEST_EVALUATIONS or not later:
        told = Forecast(
            (math.nan,) * len(series),
            warnings=(
                f"{len(seen)} evaluations from the highest learning rate up to the cut and {len(later)} after it, of "
                f"{FEWEST_EVALUATIONS} and 1 needed: lower training.eval_interval",
            ),
        )
    else:
        told = method.forecast(seen, places)
    for each in told.warnings:
        job.say(f"warning: {each}")
    errors = {}
    for place, (evaluation, loss) in enumerate(zip(series, told.losses, strict=True)):
        known = loss if math.isfinite(loss) else None
        errors[place] = None if known is None else abs(known - evaluation.loss) / evaluation.loss
        job.log(step=evaluation.step, tokens=evaluation.tokens, measured_loss=evaluation.loss, forecast_loss=known)
    record = {
        "cut": spec.cut,
        "seen_steps": [each.step for each in seen],
        "forecast_steps": [each.step for each in later],
        "parameters": dict(told.parameters),
        "warnings": list(told.warnings),
    }
    (job.out / FITTED).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    job.record(warnings=list(told.warnings))
    start = len(series) - len(later) - len(seen)
    return {
        "forecast_error": _mean([errors[place] for place in range(len(series) - len(later), len(series))]),
        "final_forecast_error": errors[len(series) - 1] if later else None,
        "fit_error": _mean([errors[place] for place in range(start, start + len(seen))]),
        "num_seen": len(seen),
        "num_forecast": len(later),
    }


def one_text(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations on the text of the first: the last one may have seen more, which is another series."""
    counts = evaluations[0].counts.tolist()
    return [each for each in evaluations if each.counts.tolist() == counts]


def split(series: Sequence[Evaluation], cut: float) -> tuple[list[Evaluation], list[Evaluation]]:
    """Evaluations to fit to and those to forecast: up to ``cut`` of the last one's tokens, and after.

    While the learning rate still rises, no law is meant to hold: what is seen starts where it is highest.
    """
    last = cut * series[-1].tokens
    early = [each for each in series if each.tokens <= last]
    start = max(range(len(early)), key=lambda place: early[place].lr, default=0)
    return early[start:], list(series[len(early) :])


def _mean(errors: list[float | None]) -> float | None:
    known = [each for each in errors if each is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(errors) else None
