"""``forecast positions``: the reciprocal law fitted to the loss by position, evaluation by evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.forecast.position_law import PositionFit, binned, fit_positions, law, log_bins
from pipelines.megatron.position_losses import Evaluation, read_position_losses
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.forecast.separable import Fit
    from pipelines.forecast.spec import PositionsSpec
    from pipelines.runs.job import Job

FITS = "fits.json"
FEWEST_POSITIONS = 5


def positions(spec: PositionsSpec, inputs: dict[str, Path], job: Job) -> dict[str, Any]:
    """Write fits.json; log a line an evaluation, then one a log-spaced bin of positions of the last evaluation.

    Returns:
        of the last evaluation: position_a0, position_a1, position_a2 and position_ratio (a0 / a1), each None where it
        is not identified, position_r2, position_binned_r2, position_noise_ratio; and identified_share of all fits.

    Raises:
        RetraceError: sequences too short for a fit of three numbers.
    """
    evaluations = read_position_losses(inputs["run"])
    if len(evaluations[0].counts) < FEWEST_POSITIONS:
        length = len(evaluations[0].counts)
        raise RetraceError(f"{inputs['run']}: sequences of {length} positions, and a fit needs {FEWEST_POSITIONS}")
    fits = [fit_positions(each, spec.bins_per_octave) for each in evaluations]
    records = [_record(evaluation, each) for evaluation, each in zip(evaluations, fits, strict=True)]
    for record in records:
        job.log(**{key: value for key, value in record.items() if key != "warnings"})
    last, found = evaluations[-1], fits[-1]
    for position, measured, fitted in _bins(last, found, spec.bins_per_octave):
        job.log(position=position, position_loss=measured, fitted_loss=fitted)
    for warning in found.fit.warnings:
        job.say(f"warning: step {last.step}: {warning}")
    (job.out / FITS).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    share = sum(each.fit.identified for each in fits) / len(fits)
    job.record(warnings=list(found.fit.warnings), identified_share=share)
    told = {**records[-1], **dict.fromkeys(unknown(found.fit))}
    return {
        **{f"position_{key}": told[key] for key in ("a0", "a1", "a2", "ratio", "r2", "binned_r2", "noise_ratio")},
        "identified_share": share,
    }


def unknown(fit: Fit) -> tuple[str, ...]:
    """Which numbers mean nothing: all where the rate has no lower bound, a0 and a1 where it has no upper one."""
    if fit.rate_low is None:
        return "a0", "a1", "a2", "ratio"
    return () if fit.identified else ("a0", "a1")


def _record(evaluation: Evaluation, found: PositionFit) -> dict[str, Any]:
    return {
        "step": evaluation.step,
        "tokens": evaluation.tokens,
        "evaluated_tokens": int(evaluation.counts.sum()),
        "a0": found.fit.scale,
        "a1": found.fit.rate,
        "a1_low": found.fit.rate_low,
        "a1_high": found.fit.rate_high,
        "a2": found.fit.floor,
        "ratio": found.ratio,
        "r2": found.fit.r2,
        "binned_r2": found.binned_r2,
        "noise_ratio": found.noise_ratio,
        "warnings": list(found.fit.warnings),
    }


def _bins(evaluation: Evaluation, found: PositionFit, bins_per_octave: int) -> list[tuple[float, float, float]]:
    """(geometric mean position, measured loss, fitted loss) of each bin."""
    there = evaluation.counts > 0
    position = np.arange(1, len(there) + 1)[there].astype(float)
    counts = evaluation.counts[there].astype(float)
    groups = log_bins(position, bins_per_octave)
    fitted = found.fit.scale * law(position, found.fit.rate) + found.fit.floor
    parts = (np.log(position), evaluation.means[there], fitted)
    logs, measured, expected = (binned(values, counts, groups).tolist() for values in parts)
    return list(zip(np.exp(logs).tolist(), measured, expected, strict=True))
