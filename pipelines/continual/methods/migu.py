"""MIGU: update only the output rows of linear layers with the largest output magnitudes.

Du et al. 2024, "Unlocking Continual Learning Abilities in Language Models", arXiv 2406.17245. In each optimiser step,
for a linear layer with weight W [d_out, d_in] (a column of the paper's W is a row here), n_i the mean over the step's
tokens of |h_i|: mask the t = floor(T d_out) rows of smallest n_i and keep the other d_out - t (Eq. 5 prints "1 - t";
read d_out - t); W <- W - eta M (.) grad W. LoRA: A is masked by |x A|, B by |x W + s x A B|, the combined output.
T, the ``threshold``, is the fraction masked.

Where the paper and its code (MIGU 3f3b9f0) differ, or say nothing:
D1  ``normalise``: "layer" is any L1 normalisation after summing over tokens, to which the ranking is blind; "token"
    normalises each token first, which is another method.
D2  ``rule``: "rank" keeps exactly d_out - floor(T d_out); of equal magnitudes the lower index is masked. "quantile" is
    the code.
D3  ``mask_first_task``: the code trains the first task plainly, and so does the default; the paper does not say.
D4  ``include_lm_head``: the code masks the output layer too, which with tied embeddings masks embedding rows. Default:
    left alone, as is a classification head. Where it is included, a causal model counts the answers' positions only.
D5  Biases, norms, embeddings and routers are never masked. Fused experts are: every expert's gate, up and down
    projection on its own, over the tokens routed to it; an expert without tokens has only ties, and D2 decides.
D6, D7, D15  Weight decay, batch size, dropout, learning rate and epochs are keys of the spec, equal for all tasks.
D8  ``policy``: "mask_grad" (the code) zeroes gradients, and AdamW still moves masked rows by momentum and weight decay;
    "restore" puts masked rows back after the step, bit for bit. ``moments`` of restored rows: "frozen" (as if the step
    had not been) or "decayed" (by the zero gradient). masked_rows_leaked_share counts, on weights, what still moved.
D9  ``clip_order``: "after_mask" (the code) clips the norm of the masked gradient.
D10 Weights and gradients are float32 also under bfloat16 autocast: the masked gradient is the one that is applied.
D11 ``selection``: "random" keeps as many rows at random, a control without effect in the code's full finetuning.
D12, D13, D14, D16  No counterpart: LoRA runs, the whole accuracy matrix is recorded, and one process holds the batch.
Padding: the code counts padding positions; ``count_padding`` false (default) does not. Magnitudes are sums over
micro-batches of the training pass, dropout on, and are forgotten after each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from torch import nn

    from pipelines.continual.protocol import Strategy


@dataclass(frozen=True)
class Migu:
    """Hyper-parameters; the defaults are the paper's T and, where both speak, the released code's choices."""

    threshold: float = 0.7
    policy: Literal["mask_grad", "restore"] = "mask_grad"
    moments: Literal["frozen", "decayed"] = "frozen"
    rule: Literal["rank", "quantile"] = "rank"
    selection: Literal["magnitude", "random"] = "magnitude"
    normalise: Literal["layer", "token"] = "layer"
    clip_order: Literal["after_mask", "before_mask"] = "after_mask"
    mask_first_task: bool = False
    count_padding: bool = False
    include_lm_head: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < 1.0:
            raise RetraceError(
                f"migu.threshold is the fraction of rows masked and must be in [0, 1), got {self.threshold}: "
                "0 is plain finetuning, 1 would update nothing"
            )

    def start(self, model: nn.Module, seed: int) -> Strategy:
        """Watch every linear layer of the model."""
        from pipelines.continual.masked_update import MaskedUpdate
        from pipelines.continual.output_layers import output_layers

        return MaskedUpdate(self, model, set() if self.include_lm_head else set(output_layers(model)), seed)
