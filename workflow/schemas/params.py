"""Typed contract of params.yaml: unknown keys are refused, ill-typed values are named. Imports nothing heavy.

A stage's block is its spec with the keys that the plan fills in left out, plus one key for each of the stage's
methods with that method's hyper-parameters. ``growth`` and ``moe`` say only where they differ from ``pretrain``.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError, create_model

from pipelines.continual.spec import FinetuneSpec
from pipelines.data.spec import CorpusSpec, TasksSpec
from pipelines.evaluate.spec import RunSpec
from pipelines.evaluate.spec import TasksSpec as HarnessTasksSpec
from pipelines.forecast.spec import PositionsSpec, PredictSpec
from pipelines.growth.spec import DataPolicy, OptimizerPolicy, SchedulePolicy
from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import list_methods, resolve_method
from pipelines.runs.verb import Spec, describe_invalid
from pipelines.tokenizer.spec import MeasureSpec, TokenizerSpec
from pipelines.translation.spec import DecodingSpec, EncoderDecoderSpec, PairsSpec, TranslationTrainingSpec

STAGES_WITH_METHODS = ("tokenizer", "pretrain", "growth", "moe", "continual", "forecast")


def partial(spec: type[BaseModel], without: tuple[str, ...] = ()) -> Any:
    """The model of a spec given in part: every key optional, every type kept."""
    fields: dict[str, Any] = {}
    for name, field in spec.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = partial(kind)
        if name not in without:
            fields[name] = (kind, Field(None, description=field.description))
    return create_model(f"{spec.__name__}Part", __base__=Spec, **fields)


class Folders(Spec):
    """Where local data lies. A path is not identity: the digest of what is in it is."""

    corpus: str | None = Field(None, description="folder of .txt or .jsonl (data.source: local)")
    other_corpus: str | None = Field(
        None, description="the same, text of another domain to measure tokenizers on (data.source: local)"
    )
    tasks: str | None = Field(None, description="folder of labelled tasks (continual.tasks.source: local)")
    harness: str | None = Field(None, description="folder of evaluation sets (evaluate.tasks.source: local)")
    translation: str | None = Field(
        None, description="folder of parallel text, STEM.LANGUAGE or STEM.LANGUAGE.gz; without it nothing is translated"
    )


class TokenizerParams(Spec):
    """The tokenizers, and which of them everything but a comparison of tokenizers uses."""

    method: str = Field(description="tokenizer of every stage that compares something else")
    train: partial(TokenizerSpec, ("method",))  # type: ignore[valid-type]
    measure: partial(MeasureSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]


class PretrainParams(Spec):
    """The base model and its training; what growth and moe leave unsaid is taken from here."""

    model: ModelSpec
    training: TrainingSpec
    train_bytes: int | None = Field(None, ge=0, description="budget in bytes of text; replaces training.train_iters")


class GrowthParams(Spec):
    """The grown model and its training, where they differ from pretrain, and how training goes on after growth."""

    model: partial(ModelSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    training: partial(TrainingSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    optimizer_policy: OptimizerPolicy = "fresh"
    schedule_policy: SchedulePolicy = "restart"
    data_policy: DataPolicy = "disjoint"


class UpcycleParams(Spec):
    """Training after upcycling, where it differs from moe.training."""

    growth: str = Field(description="growth method whose model is upcycled")
    training: partial(TrainingSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]


class MoEParams(Spec):
    """The mixture-of-experts models and their training, where they differ from pretrain."""

    model: partial(ModelSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    experts: ExpertSpec
    training: partial(TrainingSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    micro_batch_size: int = Field(ge=1)
    upcycle: UpcycleParams


class ContinualParams(Spec):
    """The sequence of tasks and the finetuning on it."""

    tasks: partial(TasksSpec, ("versions",)) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    finetune: partial(FinetuneSpec, ("method", "seed"))  # type: ignore[valid-type]
    moe: str = Field(description="moe method whose upcycled model is finetuned")


class TranslationParams(Spec):
    """Translation models, one a tokenizer, on the parallel text of ``folders.translation``."""

    pairs: partial(PairsSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    tokenizer: partial(TokenizerSpec, ("method",)) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    model: partial(EncoderDecoderSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    training: partial(TranslationTrainingSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    decoding: partial(DecodingSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]


class EvaluateParams(Spec):
    """The evaluation tasks and how they are run."""

    tasks: partial(HarnessTasksSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    run: partial(RunSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]


class ForecastParams(Spec):
    """Forecasts of losses, and the law over positions."""

    predict: partial(PredictSpec, ("method",)) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]
    positions: partial(PositionsSpec) = Field(default_factory=dict, validate_default=True)  # type: ignore[valid-type]


class Params(Spec):
    """The whole of params.yaml."""

    papers: tuple[str, ...] = Field(min_length=1, description="folders of papers/ to make the tables of")
    seeds: int = Field(ge=1, description="at most this many seeds of each table")
    folders: Folders = Field(default_factory=lambda: Folders.model_validate({}))
    data: partial(CorpusSpec, ("seed", "domain", "versions"))  # type: ignore[valid-type]
    tokenizer: TokenizerParams
    pretrain: PretrainParams
    growth: GrowthParams
    moe: MoEParams
    continual: ContinualParams
    translation: TranslationParams
    evaluate: EvaluateParams
    forecast: ForecastParams = Field(default_factory=lambda: ForecastParams.model_validate({}))


class MethodParams(BaseModel):
    """Hyper-parameters given for each method of each stage."""

    given: dict[str, dict[str, dict[str, Any]]]

    def of(self, stage: str, name: str) -> dict[str, Any]:
        """A method spelled out with what params.yaml gives for it."""
        return resolve_method(stage, {"name": name, **self.given.get(stage, {}).get(name, {})})


def load_params(config: dict[str, Any]) -> tuple[Params, MethodParams]:
    """Check the merged configuration.

    Raises:
        RetraceError: names the key, what is wrong with it and what is known.
    """
    values = dict(config)
    given: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in STAGES_WITH_METHODS:
        block = values.get(stage)
        if not isinstance(block, dict):
            continue
        methods = list_methods(stage)
        given[stage] = {name: block[name] or {} for name in methods if name in block}
        values[stage] = {key: value for key, value in block.items() if key not in methods}
        for name, hyperparameters in given[stage].items():
            if not isinstance(hyperparameters, dict):
                raise RetraceError(f"params.yaml: {stage}.{name} must map hyper-parameters to values")
            resolve_method(stage, {"name": name, **hyperparameters}, f"params.yaml: {stage}.{name}")
    try:
        return Params.model_validate(values), MethodParams(given=given)
    except ValidationError as invalid:
        raise RetraceError(describe_invalid(invalid, "params.yaml", Params)) from None
