"""Parallel layouts: which splits of the processes fit a model. Imports no torch, so that planning can ask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
    from pipelines.runs.verb import Execution


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel groups; expert parallelism lies inside data parallelism, as in Megatron."""

    world_size: int
    data_parallel_size: int
    expert_model_parallel_size: int
    pipeline_model_parallel_size: int
    tensor_model_parallel_size: int

    def as_dict(self) -> dict[str, int]:
        """The sizes by Megatron's names."""
        return asdict(self)


def check_layout(
    execution: Execution,
    experts: ExpertSpec | None = None,
    model: ModelSpec | None = None,
    training: TrainingSpec | None = None,
    micro_batch_size: int | None = None,
) -> Layout:
    """The layout an execution asks for.

    Args:
        experts: the mixture-of-experts part; None for a dense model.
        model, training: checked against the layout where given (layers over stages, batch over ranks).
        micro_batch_size: sequences a forward pass, where it belongs to the spec; else the execution's.

    Raises:
        RetraceError: the sizes do not divide; names the key and the remedy.
    """
    pipeline, tensor = execution.pipeline_model_parallel_size, execution.tensor_model_parallel_size
    expert = execution.expert_model_parallel_size
    if tensor > 1:
        raise RetraceError(
            f"--exec tensor_model_parallel_size is {tensor}: tensor parallelism is not supported "
            "(gloo has no sequence parallelism); set it to 1 and use data, expert or pipeline parallelism"
        )
    if execution.processes % pipeline:
        raise RetraceError(
            f"--exec processes {execution.processes} is not divisible by "
            f"pipeline_model_parallel_size {pipeline}: change one of them"
        )
    data = execution.processes // pipeline
    if execution.data_parallel_size not in (None, data):
        raise RetraceError(
            f"--exec data_parallel_size {execution.data_parallel_size} times pipeline_model_parallel_size {pipeline} "
            f"is not processes {execution.processes}: leave data_parallel_size out or set it to {data}"
        )
    _check_experts(experts, expert, data)
    if model is not None and model.num_layers % pipeline:
        raise RetraceError(
            f"model.num_layers {model.num_layers} is not divisible by "
            f"--exec pipeline_model_parallel_size {pipeline}: every stage holds as many layers"
        )
    if training is not None:
        micro_batch = micro_batch_size or execution.micro_batch_size
        _check_batch(training.global_batch_size, data, micro_batch)
    return Layout(execution.processes, data, expert, pipeline, tensor)


def default_micro_batch(global_batch_size: int, data_parallel_size: int, pipeline_stages: int) -> int:
    """Sequences a forward pass when nobody asks: a rank's whole share, or enough pieces to fill the pipeline."""
    share = global_batch_size // data_parallel_size
    pieces = pipeline_stages if share % pipeline_stages == 0 else 1
    return share // pieces


def _check_experts(experts: ExpertSpec | None, expert_parallel: int, data_parallel: int) -> None:
    if expert_parallel == 1:
        return
    key = f"--exec expert_model_parallel_size {expert_parallel}"
    if experts is None:
        raise RetraceError(f"{key}: the model has no experts; set it to 1")
    if experts.num_moe_experts % expert_parallel:
        raise RetraceError(f"{key} does not divide num_moe_experts {experts.num_moe_experts}: change one of them")
    if data_parallel % expert_parallel:
        raise RetraceError(
            f"{key} does not divide the {data_parallel} data-parallel ranks: "
            "expert parallelism lies inside data parallelism; raise --exec processes"
        )


def _check_batch(global_batch: int, data_parallel: int, micro_batch: int | None) -> None:
    if global_batch % data_parallel:
        raise RetraceError(
            f"training.global_batch_size {global_batch} is not divisible by the {data_parallel} data-parallel ranks"
        )
    if micro_batch and (global_batch // data_parallel) % micro_batch:
        raise RetraceError(
            f"micro_batch_size {micro_batch} does not divide the {global_batch // data_parallel} sequences of a rank "
            f"(global_batch_size {global_batch} over {data_parallel} data-parallel ranks)"
        )
