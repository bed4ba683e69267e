"""Verbs of the forecast stage. Imports nothing heavy."""

from __future__ import annotations

from pipelines.forecast.spec import PositionsSpec, PredictSpec
from pipelines.runs.verb import Command, Verb

RUN = {"run": "folder that `train` of pretrain, growth or moe made, with its position_losses.npz"}

VERBS: dict[str, Verb | Command] = {
    "predict": Verb(
        help="Forecast the validation loss of later training from early training, and hold it against what came.",
        implementation="pipelines.forecast.predict:predict",
        spec=PredictSpec,
        inputs=RUN,
        packages=("numpy", "scipy"),
    ),
    "positions": Verb(
        help="Fit the reciprocal law to the loss by position at every evaluation of a training.",
        implementation="pipelines.forecast.positions:positions",
        spec=PositionsSpec,
        inputs=RUN,
        packages=("numpy", "scipy"),
    ),
}
