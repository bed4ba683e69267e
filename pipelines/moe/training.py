"""``moe train``: a mixture-of-experts model, from scratch or upcycled from a dense checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.data import open_tokens
from pipelines.megatron.ledger import check_vocabulary, continuation
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.megatron.model import Gpt
    from pipelines.megatron.spec import ExpertSpec
    from pipelines.moe.protocol import MoEMethod
    from pipelines.moe.spec import MoESpec
    from pipelines.runs.job import Job


def train(spec: MoESpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Train with the routers of ``spec.method``; measure their load and entropy on the validation text.

    An upcycled model starts from ``--dense``: its experts are copies of the dense layers, its routers those of a
    model from scratch with the same seed, its data the sequences after the dense model's, and its logged tokens and
    FLOPs include the dense model's.

    Raises:
        RetraceError: dense model, experts and tokens do not fit each other.
    """
    method: MoEMethod = load_method("moe", spec.method)
    before: dict[str, Any] = {}
    dense = _dense(spec, inputs)
    if dense is not None:
        before = _check_dense(spec, dense, inputs["tokens"])

    # They load megatron, so only once everything has been checked.
    from pipelines.megatron.routing import RoutingStatistics
    from pipelines.megatron.training import train as train_model
    from pipelines.megatron.upcycle import UpcycledWeights

    initial = None if dense is None else UpcycledWeights(read_tensors(dense))
    statistics = RoutingStatistics(spec.model.num_layers, spec.experts.num_moe_experts, spec.experts.moe_router_topk)

    def prepare(model: Gpt) -> None:
        method.attach(model)
        statistics.watch(model)
        if initial is not None:
            initial.fill_routers(model, spec.seed, spec.model.init_method_std)

    final = train_model(
        spec.model,
        spec.experts,
        spec.training,
        spec.seed,
        inputs["tokens"],
        job,
        micro_batch_size=spec.micro_batch_size,
        initial=initial,
        router_builder=method.router(),
        prepare=prepare,
        moe_method=spec.method,
        extra_forward_flops=method.extra_flops_per_token(spec.model, spec.experts),
        **before,
    )
    job.record(
        num_parameters=final["num_parameters"],
        num_active_parameters=final["num_active_parameters"],
        num_extra_parameters=method.num_extra_parameters(spec.model, spec.experts),
        **before,
    )
    return {**final, **statistics.metrics()}


def _dense(spec: MoESpec, inputs: dict[str, Path]) -> Path | None:
    dense = inputs.get("dense")
    if spec.init == "upcycle" and dense is None:
        raise RetraceError("--dense is missing: init upcycle starts from the checkpoint of a dense model")
    if spec.init == "scratch" and dense is not None:
        raise RetraceError("--dense: init scratch uses no dense model; set init to upcycle, or leave --dense out")
    return dense


def _check_dense(spec: MoESpec, dense: Path, tokens: Path) -> dict[str, int]:
    """Refuse a dense model that does not fit; else what it has cost and where its data ended."""
    config, artifact = read_config(dense), open_tokens(tokens)
    if config["experts"] is not None:
        raise RetraceError("--dense is a mixture of experts already: give the checkpoint of a dense model")
    check_upcycling(ModelSpec.model_validate(config["model"]), spec.model, spec.experts)
    check_vocabulary(config, artifact, "dense")
    return continuation(config, spec.model, spec.seed, "dense")


def check_upcycling(dense: ModelSpec, model: ModelSpec, experts: ExpertSpec) -> None:
    """Refuse a dense model whose layers cannot be copied into the experts.

    Raises:
        RetraceError: names the first key that disagrees.
    """
    for key, value in dense.model_dump().items():
        wanted = getattr(model, key)
        if key not in ("seq_length", "init_method_std") and value != wanted:
            raise RetraceError(f"--dense: its {key} is {value} and model.{key} is {wanted}: make them equal to upcycle")
    if experts.moe_ffn_hidden_size != dense.ffn_hidden_size:
        raise RetraceError(
            f"experts.moe_ffn_hidden_size {experts.moe_ffn_hidden_size} is not the dense model's ffn_hidden_size "
            f"{dense.ffn_hidden_size}: upcycling copies the dense layer into every expert; make them equal"
        )
