import subprocess
import sys

import pytest
import torch

from pipelines.megatron.layout import check_layout
from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Execution

EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=16)
MODEL = ModelSpec(
    num_layers=3, hidden_size=16, ffn_hidden_size=32, num_attention_heads=2, num_query_groups=1, seq_length=8
)
TRAINING = TrainingSpec(train_iters=2, global_batch_size=6, lr=0.1)

NO_OP = """
import sys
import torch
torch.cuda.is_available = lambda: True
before = {name: getattr(torch.cuda, name) for name in dir(torch.cuda)}
compile_ = torch.compile
from pipelines.megatron import backend
assert backend.adapt() is False
assert {name: getattr(torch.cuda, name) for name in dir(torch.cuda)} == before
assert torch.compile is compile_
assert not any(name.startswith("megatron") for name in sys.modules)
"""


def test_with_cuda_the_adaptation_changes_nothing():
    subprocess.run([sys.executable, "-c", NO_OP], check=True)


def test_without_cuda_megatron_sees_the_cpu(one_process):
    from pipelines.megatron import backend

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    from megatron.core.pipeline_parallel import schedules
    from megatron.core.transformer.moe import moe_utils

    assert backend.adapt() is True
    assert torch.cuda.current_device() == torch.device("cpu")
    assert schedules.torch.zeros([], dtype=torch.int, device="cuda").device.type == "cpu"
    assert schedules.torch.float32 is torch.float32
    assert moe_utils.te_general_gemm is None
    assert moe_utils.maybe_move_tensor_to_cpu(torch.tensor([1, 2]), as_numpy=True).tolist() == [1, 2]


def test_importing_the_model_does_not_load_torch_compile():
    code = "import sys, pipelines.megatron.training; assert 'torch._inductor' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_process_initialises_itself_and_reports_its_layout(one_process):
    from pipelines.megatron import backend

    layout = backend.layout()
    assert layout["world_size"] == layout["data_parallel_size"] == layout["expert_model_parallel_size"] == 1
    assert layout["backend"] in ("gloo", "nccl")
    # A second job in the same process keeps the groups that fit.
    backend.initialize(Execution(processes=1))


def test_ranks_that_were_not_started_are_missed():
    from pipelines.megatron import backend

    with pytest.raises(RetraceError, match="processes is 2 but 1 ranks run"):
        backend.initialize(Execution(processes=2))


def test_an_unknown_device_is_refused():
    from pipelines.megatron import backend

    with pytest.raises(RetraceError, match="choose auto, cpu or cuda"):
        backend.initialize(Execution(device="tpu"))
    if not torch.cuda.is_available():
        with pytest.raises(RetraceError, match="sees no GPU"):
            backend.initialize(Execution(device="cuda"))


@pytest.mark.parametrize(
    ("execution", "arguments", "message"),
    [
        ({"processes": 2, "tensor_model_parallel_size": 2}, {}, "tensor parallelism is not supported"),
        ({"processes": 3, "pipeline_model_parallel_size": 2}, {}, "not divisible by pipeline_model_parallel_size 2"),
        ({"processes": 2, "data_parallel_size": 1}, {}, "set it to 2"),
        ({"processes": 2, "expert_model_parallel_size": 2}, {}, "the model has no experts"),
        ({"processes": 3, "expert_model_parallel_size": 3}, {"experts": EXPERTS}, "does not divide num_moe_experts 4"),
        ({"expert_model_parallel_size": 2}, {"experts": EXPERTS}, "does not divide the 1 data-parallel ranks"),
        ({"processes": 2, "pipeline_model_parallel_size": 2}, {"model": MODEL}, "num_layers 3 is not divisible"),
        ({"processes": 4}, {"training": TRAINING}, "global_batch_size 6 is not divisible by the 4"),
        ({"processes": 2, "micro_batch_size": 2}, {"training": TRAINING}, "micro_batch_size 2 does not divide the 3"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_with_key_and_remedy(execution, arguments, message):
    with pytest.raises(RetraceError, match=message):
        check_layout(Execution(**execution), **arguments)


def test_a_layout_that_fits_has_the_sizes_megatron_would_use():
    execution = Execution(processes=4, expert_model_parallel_size=2, pipeline_model_parallel_size=2)
    layout = check_layout(execution, EXPERTS)
    assert (layout.data_parallel_size, layout.expert_model_parallel_size) == (2, 2)
    assert layout.as_dict()["pipeline_model_parallel_size"] == 2
