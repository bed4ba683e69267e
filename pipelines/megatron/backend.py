"""megatron-core on machines without CUDA: a small adaptation, and the start of the process groups.

megatron-core 0.16.1 names CUDA in a few places even where nothing needs it. ``adapt`` replaces these names by
CPU stand-ins; with CUDA present it changes nothing at all. Importing this module adapts, so import it before
``megatron.core`` (the names are also patched later, but then torch.compile has already been loaded).
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import types
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from pipelines.megatron.layout import Layout, check_layout
from pipelines.runs.devices import prepare_cpu
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec
    from pipelines.runs.verb import Execution

TIMEOUT = timedelta(minutes=30)


class NoStream:
    """Stand-in for a CUDA stream or event: one CPU thread runs everything in order, so there is nothing to wait for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> NoStream:
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait_stream(self, _: object) -> None: ...

    def wait_event(self, _: object) -> None: ...

    def record_event(self, event: object = None) -> object:
        return self if event is None else event

    def record(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class CpuTorch(types.ModuleType):
    """The torch module as some megatron modules see it: ``device="cuda"`` literals mean the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, *size: Any, **options: Any) -> torch.Tensor:
        """torch.zeros, on the CPU."""
        return torch.zeros(*size, **_on_cpu(options))

    def tensor(self, *data: Any, **options: Any) -> torch.Tensor:
        """torch.tensor, on the CPU."""
        return torch.tensor(*data, **_on_cpu(options))


def _on_cpu(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "device": "cpu"} if "device" in options else options


def adapt() -> bool:
    """Make megatron.core run without CUDA; say whether anything was changed. Idempotent; no-op where CUDA is.

    What is replaced, and why, one line each, is in the body.
    """
    if torch.cuda.is_available():
        return False
    if getattr(torch.cuda, "_retrace_adapted", False):
        return True
    with _quiet(), _without_compile():
        import megatron.core.models.gpt.gpt_layer_specs
        import megatron.core.models.gpt.gpt_model  # noqa: F401
        import megatron.core.tensor_parallel.random as rng
        from megatron.core.optimizer import clip_grads
        from megatron.core.optimizer import optimizer as optimizers
        from megatron.core.pipeline_parallel import schedules
        from megatron.core.transformer.moe import moe_utils, token_dispatcher

    cpu = torch.device("cpu")
    # Layers, dispatchers and buffers allocate on "the current device".
    torch.cuda.current_device = lambda: cpu  # type: ignore[assignment,return-value]
    # Dispatchers and pipeline communication order themselves by streams.
    torch.cuda.Stream = torch.cuda.Event = NoStream  # type: ignore[assignment,misc]
    torch.cuda.current_stream = torch.cuda.default_stream = NoStream  # type: ignore[assignment]
    torch.cuda.stream = lambda _stream: contextlib.nullcontext()  # type: ignore[assignment,misc]
    torch.cuda.synchronize = lambda _device=None: None
    # The random-state tracker forks the generator of "the" device: here the CPU's.
    torch.cuda.get_rng_state = lambda _device="cpu": torch.get_rng_state()
    torch.cuda.manual_seed = lambda seed: torch.manual_seed(seed) and None
    rng._get_cuda_rng_state = lambda device="cpu", clone=False, graph_safe=False: torch.get_rng_state()
    rng._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    # Without Transformer Engine this name is undefined, and the router's linear layer looks at it.
    moe_utils.te_general_gemm = None
    # gloo's all-to-all takes split sizes as plain integers; the original converts tensors of a GPU only.
    token_dispatcher.maybe_move_tensor_to_cpu = moe_utils.maybe_move_tensor_to_cpu = _split_sizes
    # device="cuda" literals.
    for module in (schedules, optimizers, clip_grads, moe_utils):
        module.torch = CpuTorch("torch")
    torch.cuda._retrace_adapted = True  # type: ignore[attr-defined]
    return True


def _split_sizes(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


@contextlib.contextmanager
def _without_compile() -> Iterator[None]:
    """Keep megatron's ``@jit_fuser`` functions plain: loading torch.compile costs each job over a second."""
    if "megatron.core" in sys.modules:
        yield
        return
    compile_ = torch.compile
    torch.compile = lambda model=None, **_: model if model is not None else lambda function: function  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide megatron's notes that optional GPU packages are missing; look for no garbage while it loads."""
    collecting = gc.isenabled()
    gc.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            if collecting:
                gc.enable()


def device() -> torch.device:
    """The device of this process: its GPU if CUDA is there, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def initialize(execution: Execution, experts: ExpertSpec | None = None) -> Layout:
    """Start torch.distributed and megatron's process groups for an execution, or keep those that fit.

    One process needs no network: it joins a group of itself through an in-memory store.

    Raises:
        RetraceError: the layout does not fit, the device is not there, or the ranks started are others.
    """
    from megatron.core import parallel_state, tensor_parallel

    layout_ = check_layout(execution, experts)
    _check_device(execution.device)
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size != layout_.world_size:
        raise RetraceError(
            f"--exec processes is {layout_.world_size} but {world_size} ranks run: start the verb without torchrun"
        )
    if not torch.distributed.is_initialized():
        prepare_cpu(execution.threads)
        _join(world_size)
    if parallel_state.model_parallel_is_initialized():
        if layout() == {**layout(), **layout_.as_dict()}:
            return layout_
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        pipeline_model_parallel_size=layout_.pipeline_model_parallel_size,
        expert_model_parallel_size=layout_.expert_model_parallel_size,
        create_gloo_process_groups=False,
    )
    if not torch.cuda.is_available():
        tensor_parallel.random.initialize_rng_tracker()
    return layout_


def layout() -> dict[str, Any]:
    """What runs, for run.json: backend, device and the sizes of the parallel groups."""
    from megatron.core import parallel_state

    return {
        "backend": torch.distributed.get_backend(),
        "device": device().type if device().type == "cpu" else torch.cuda.get_device_name(),
        "world_size": torch.distributed.get_world_size(),
        "data_parallel_size": parallel_state.get_data_parallel_world_size(),
        "expert_model_parallel_size": parallel_state.get_expert_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
    }


def shutdown() -> None:
    """End the process groups, so that a process can start others (tests do)."""
    from megatron.core import parallel_state

    if torch.distributed.is_initialized():
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def _join(world_size: int) -> None:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    if world_size == 1:
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=TIMEOUT)
    else:
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)


def _check_device(wanted: str) -> None:
    if wanted not in ("auto", "cpu", "cuda"):
        raise RetraceError(f"--exec device {wanted!r}: choose auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RetraceError("--exec device cuda: torch sees no GPU here; use auto, or install a CUDA build of torch")
    if wanted == "cpu" and torch.cuda.is_available():
        raise RetraceError("--exec device cpu on a machine with GPUs: hide them with CUDA_VISIBLE_DEVICES= (empty)")


adapt()
