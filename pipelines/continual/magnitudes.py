"""Output magnitudes of linear layers, summed over the tokens of an optimiser step.

Each ``RowSource`` is a weight whose output rows can be masked and the magnitude n of every row: the sum over tokens of
|output|, taken from the training forward pass itself (dropout on), in float32, over all micro-batches. Where:

    nn.Linear       weight [R, D]        |x W^T|, bias left in as the layer computes it
    LoRA A          weight [r, D]        |x A^T| (what A puts out)
    LoRA B          weight [R, r]        |x W^T + s x A^T B^T|, the combined output of the adapted layer
    fused experts   weights [E, R, D]    see ``pipelines.continual.experts``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pipelines.continual.experts import is_fused_experts, record_experts
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipelines.continual.protocol import TokenMasks

# Linear layers of a decoder that read the encoder's output (T5; BART and its relatives).
_READS_ENCODER = ("EncDecAttention.k", "EncDecAttention.v", "encoder_attn.k_proj", "encoder_attn.v_proj")


class RowSource:
    """A weight [..., R, D] and the magnitudes of its output rows.

    Attributes:
        parts: each expert's rows are ranked in this many equal runs (2 where gate and up projection are fused).
        magnitudes: sums since ``reset``, [..., R].
    """

    def __init__(self, name: str, weight: nn.Parameter, parts: int = 1) -> None:
        self.name = name
        self.weight = weight
        self.parts = parts
        self.magnitudes = torch.zeros(weight.shape[:-1], dtype=torch.float32, device=weight.device)

    def mask(self, rule: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a rule of ``row_masks`` to each run of rows that is ranked on its own: True is kept, [..., R]."""
        runs = self.magnitudes.unflatten(-1, (self.parts, -1))
        return rule(runs).flatten(-2)

    def reset(self) -> None:
        """Forget the step's tokens."""
        self.magnitudes.zero_()


class MagnitudeRecorder:
    """Hooks on every maskable layer of a model; records the forward passes between ``start`` and ``stop``.

    Args:
        model: with its LoRA layers, if any; then only adapters are maskable.
        skip: names of layers left alone (output layers).
        count_padding: count padding positions like tokens, as MIGU's released code does.
        per_token: divide each token's magnitudes by their sum first (a variant, not the paper's code).
    """

    def __init__(self, model: nn.Module, skip: set[str], count_padding: bool, per_token: bool) -> None:
        self.count_padding = count_padding
        self.per_token = per_token
        self.sources: list[RowSource] = []
        self._tokens: TokenMasks | None = None
        self._remove: list[Callable[[], None]] = []
        self._has_encoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        covered: set[str] = set()
        for name, module in model.named_modules():
            if any(name == each or name.startswith(f"{each}.") for each in covered | skip):
                continue
            if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
                covered.add(name)
                self._watch_lora(name, module)
            elif is_fused_experts(module):
                if module.gate_up_proj.requires_grad:
                    self._watch_experts(name, module)
            elif isinstance(module, nn.Linear) and module.weight.requires_grad:
                self._watch(module, self._add(name, module.weight), name)
        if not self.sources:
            raise RetraceError(f"{type(model).__name__} has no trainable linear layers whose rows could be masked")

    def start(self, tokens: TokenMasks) -> None:
        """A training micro-batch begins."""
        self._tokens = tokens

    def stop(self) -> None:
        """The micro-batch's forward pass is over; later passes are not recorded."""
        self._tokens = None

    def reset(self) -> None:
        """Begin a new optimiser step."""
        for source in self.sources:
            source.reset()

    def detach(self) -> None:
        """Remove every hook."""
        while self._remove:
            self._remove.pop()()

    def _add(self, name: str, weight: nn.Parameter, parts: int = 1) -> RowSource:
        source = RowSource(name, weight, parts)
        self.sources.append(source)
        return source

    def _watch(self, module: nn.Module, source: RowSource, name: str) -> None:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._tokens is not None:
                source.magnitudes += self._sum(output.detach(), self._weights(output, name))

        self._remove.append(module.register_forward_hook(hook).remove)

    def _watch_lora(self, name: str, layer: nn.Module) -> None:
        for adapter, down in layer.lora_A.items():
            self._watch(down, self._add(f"{name}.lora_A.{adapter}", down.weight), name)
            self._watch(layer, self._add(f"{name}.lora_B.{adapter}", layer.lora_B[adapter].weight), name)

    def _watch_experts(self, name: str, experts: nn.Module) -> None:
        if self._has_encoder:
            raise RetraceError(f"{name}: fused experts in an encoder-decoder model cannot be masked; finetune with ft")
        gate_up = self._add(f"{name}.gate_up_proj", experts.gate_up_proj, parts=2)
        down = self._add(f"{name}.down_proj", experts.down_proj)

        def record(expert: int, token_T: Tensor, gate_up_TR: Tensor, down_TR: Tensor) -> None:
            if self._tokens is None:
                return
            weights_N = None if self.count_padding else self._tokens.encoder_BS.flatten()
            weights_T = None if weights_N is None else weights_N[token_T]
            # Gate and up are two linear layers in the paper's terms: normalised and ranked apart.
            for part, output_TR in enumerate(gate_up_TR.chunk(2, dim=-1)):
                rows = slice(part * output_TR.shape[-1], (part + 1) * output_TR.shape[-1])
                gate_up.magnitudes[expert, rows] += self._sum(output_TR, weights_T)
            down.magnitudes[expert] += self._sum(down_TR, weights_T)

        self._remove.append(record_experts(experts, record))

    def _sum(self, output: Tensor, weights: Tensor | None) -> Tensor:
        """Sum over tokens of |output [..., R]|, each weighted by 1 (a token) or 0 (padding): [R]."""
        magnitudes_TR = output.flatten(0, -2).abs().float()
        if self.per_token:
            magnitudes_TR = torch.nn.functional.normalize(magnitudes_TR, p=1.0, dim=-1)
        if weights is None:
            return magnitudes_TR.sum(dim=0)
        return weights.flatten().to(magnitudes_TR.dtype) @ magnitudes_TR

    def _weights(self, output: Tensor, name: str) -> Tensor | None:
        """The token mask that fits a layer's output, or None to count every position."""
        assert self._tokens is not None
        mask_BS = self._tokens.encoder_BS
        reads_encoder = "encoder" in name.split(".") or name.endswith(_READS_ENCODER)
        if self._tokens.decoder_BS is not None and not reads_encoder:
            mask_BS = self._tokens.decoder_BS
        if self.count_padding:
            return None
        if output.dim() == 3 and output.shape[1] < mask_BS.shape[1]:
            # Logits of the last columns only; with padding on the left these are the columns of the answers.
            mask_BS = mask_BS[:, -output.shape[1] :]
        if output.dim() == 2 and output.shape[0] == mask_BS.shape[0]:
            return None  # one pooled vector an example: no padding among them
        if output.shape[:-1].numel() != mask_BS.numel():
            raise RetraceError(f"{name}: output {tuple(output.shape)} does not match tokens {tuple(mask_BS.shape)}")
        return mask_BS
