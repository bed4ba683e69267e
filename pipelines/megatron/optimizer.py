"""AdamW and its learning rate, inside megatron's optimizer and scheduler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import pipelines.megatron.backend

# isort: split
from megatron.core import parallel_state
from megatron.core.optimizer.optimizer import FP32Optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from pipelines.megatron.initialisation import given_tensor, global_names

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt
    from pipelines.megatron.schedule import Schedule
    from pipelines.megatron.spec import TrainingSpec

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class OptimizerState:
    """AdamW's state of a whole model.

    Attributes:
        step: updates behind it; what bias correction goes by.
        moments: ``exp_avg`` and ``exp_avg_sq`` -> global name -> tensor.
    """

    step: int
    moments: Mapping[str, Mapping[str, Tensor]]


class FusedAdamW:
    """Decoupled weight decay Adam (arXiv 1711.05101) by torch's fused kernel, as megatron's wrapper needs it.

    The same update as ``torch.optim.AdamW(fused=True)``, whose class loads torch.compile: half a second a job.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        self.param_groups = [{"lr": lr, **group} for group in groups]
        self.betas, self.eps = betas, eps
        self.state: dict[torch.nn.Parameter, dict[str, torch.Tensor]] = {
            p: {
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
                "step": torch.zeros((), device=p.device),
            }
            for group in groups
            for p in group["params"]
        }

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> None:
        """Update every parameter from its ``grad``."""
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"]]
            steps = [each["step"] for each in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                group["params"],
                [p.grad for p in group["params"]],
                [each["exp_avg"] for each in states],
                [each["exp_avg_sq"] for each in states],
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                maximize=False,
            )

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def reset(self) -> None:
        """Forget every moment and the count of steps."""
        for state in self.state.values():
            for tensor in state.values():
                tensor.zero_()


class AdamW(FP32Optimizer):
    """megatron's float32 optimizer around a fused AdamW, with a gradient norm that needs no CUDA.

    The norm is of the whole model: squares are summed over the pipeline's stages, those of experts also over
    the expert-parallel ranks, and a tied head is counted once.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], config: OptimizerConfig) -> None:
        decayed = [p for p in parameters if p.dim() > 1 or getattr(p, "decayed", False)]
        plain = [p for p in parameters if not (p.dim() > 1 or getattr(p, "decayed", False))]
        groups = [
            {"params": each, "weight_decay": decay, "wd_mult": mult}
            for each, decay, mult in ((decayed, config.weight_decay, 1.0), (plain, 0.0, 0.0))
            if each
        ]
        betas = (config.adam_beta1, config.adam_beta2)
        super().__init__(FusedAdamW(groups, config.lr, betas, config.adam_eps), config, lambda *_: None)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> tuple[bool, float, None]:
        """Clip by the global norm (if ``clip_grad`` > 0) and update. Returns (True, norm before clipping, None)."""
        self.prepare_grads()
        norm = self.get_grad_norm()
        if self.config.clip_grad > 0 and norm > self.config.clip_grad:
            torch._foreach_mul_([p.grad for p in self.get_parameters()], self.config.clip_grad / (norm + 1e-6))
        self.step_with_ready_grads()
        return True, norm, None

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def get_grad_norm(self) -> float:
        """L2 norm of the whole model's gradient."""
        dense: list[torch.Tensor] = []
        experts: list[torch.Tensor] = []
        for parameter in self.get_parameters():
            if not getattr(parameter, "shared", False):
                (dense if getattr(parameter, "allreduce", True) else experts).append(parameter.grad)
        squares = torch.stack([_sum_of_squares(dense), _sum_of_squares(experts)])
        if parallel_state.get_pipeline_model_parallel_world_size() > 1:
            torch.distributed.all_reduce(squares, group=parallel_state.get_pipeline_model_parallel_group())
        if parallel_state.get_expert_model_parallel_world_size() > 1:
            torch.distributed.all_reduce(squares[1], group=parallel_state.get_expert_model_parallel_group())
        return math.sqrt(squares.sum().item())


def build_optimizer(model: Gpt, training: TrainingSpec) -> AdamW:
    """AdamW over a model's parameters; norm gains (and other vectors) are not decayed, as in Megatron."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=training.lr,
        min_lr=training.min_lr,
        weight_decay=training.weight_decay,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        adam_eps=training.adam_eps,
        clip_grad=training.clip_grad,
    )
    return AdamW([p for p in model.parameters() if p.requires_grad], config)


def build_scheduler(optimizer: Any, training: TrainingSpec) -> OptimizerParamScheduler:
    """megatron's scheduler of one whole schedule, in steps.

    ``step(1)`` is called before each update, so that step k runs at lr(k), k from 1.

    lr(k) is ``lr k / warmup`` up to the warm-up's end; then, with r the part of the rest that is over, from ``lr`` to
    ``min_lr`` by a half cosine or linearly in r, or not at all (constant), or (WSD) linearly over the last
    ``wsd_decay_iters`` steps. The last step runs at ``min_lr`` (but for constant).
    """
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=training.lr,
        min_lr=training.min_lr,
        lr_warmup_steps=training.lr_warmup_iters,
        lr_decay_steps=max(training.train_iters, 1),  # a model left untrained has no schedule
        lr_decay_style=training.lr_decay_style,
        start_wd=training.weight_decay,
        end_wd=training.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
        wsd_decay_steps=training.wsd_decay_iters,
        lr_wsd_decay_style="linear",
    )


class Scheduler:
    """The learning rate of a run from its place in a schedule; stepped and resumed as megatron's scheduler is."""

    def __init__(self, optimizer: AdamW, schedule: Schedule) -> None:
        self.schedule, self.num_steps = schedule, 0
        self._optimizer = optimizer
        self._parts = [build_scheduler(optimizer, part) for part in schedule.parts]
        self.step(0)

    def step(self, increment: int) -> None:
        """Go on by ``increment`` steps and set the learning rate and weight decay of every parameter group."""
        self.num_steps += increment
        part, place = self.schedule.place(self.num_steps)
        self._parts[part].num_steps = place
        self._parts[part].step(0)
        for group in self._optimizer.param_groups:
            group["lr"] *= self.schedule.rewarmed(self.num_steps)


def _sum_of_squares(tensors: list[torch.Tensor]) -> torch.Tensor:
    if not tensors:
        return torch.zeros((), device=pipelines.megatron.backend.device())
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


@torch.no_grad()  # type: ignore[untyped-decorator]
def load_state(optimizer: AdamW, model: Gpt, state: OptimizerState) -> None:
    """Fill an optimizer's moments and step count.

    Raises:
        RetraceError: moments of a parameter are missing or of another shape.
    """
    parameters = dict(model.named_parameters())
    for local, name in global_names(model).items():
        mine = optimizer.optimizer.state[parameters[local]]
        mine["step"].fill_(state.step)
        for kind in MOMENTS:
            mine[kind].copy_(given_tensor(state.moments[kind], name, mine[kind], f"the optimizer's moments ({kind})"))
