"""The encoder-decoder: transformers' MarianMT, which is the Transformer of Vaswani et al. 2017 with its sinusoids.

A vocabulary of N tokens gets one more id, N, which pads and starts every translation; the tokenizer's end of document
ends a sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.models.marian.configuration_marian import MarianConfig
from transformers.models.marian.modeling_marian import MarianMTModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipelines.translation.spec import EncoderDecoderSpec

IGNORED = -100


def make_model(spec: EncoderDecoderSpec, vocab_size: int, eos: int, positions: int) -> MarianMTModel:
    """A model of random weights.

    Args:
        vocab_size: of the tokenizer, the padding not counted.
        eos: id that ends a sentence.
        positions: length of the longest sequence of either side.
    """
    config = MarianConfig(
        vocab_size=vocab_size + 1,
        pad_token_id=vocab_size,
        decoder_start_token_id=vocab_size,
        eos_token_id=eos,
        forced_eos_token_id=eos,
        d_model=spec.hidden_size,
        encoder_layers=spec.num_layers,
        decoder_layers=spec.num_layers,
        encoder_attention_heads=spec.num_attention_heads,
        decoder_attention_heads=spec.num_attention_heads,
        encoder_ffn_dim=spec.ffn_hidden_size,
        decoder_ffn_dim=spec.ffn_hidden_size,
        dropout=spec.dropout,
        attention_dropout=0.0,
        activation_function="relu",
        # Embeddings of unit size beside sinusoids of unit size, and a projection that keeps it.
        init_std=spec.hidden_size**-0.5,
        scale_embedding=True,
        max_position_embeddings=positions,
    )
    return MarianMTModel(config)


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Ids as one tensor [B, S], the shorter rows filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)


def logits_of(
    model: MarianMTModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] of every next target token, and the labels [B, T] with ``IGNORED`` where there is none."""
    pad, device = model.config.pad_token_id, model.device
    source_BS, label_BT = padded(sources, pad).to(device), padded(targets, IGNORED).to(device)
    start_B1 = torch.full((len(targets), 1), pad, device=device)
    shifted_BT = torch.cat([start_B1, label_BT[:, :-1].masked_fill(label_BT[:, :-1] == IGNORED, pad)], dim=1)
    logits_BTV = model(
        input_ids=source_BS, attention_mask=(source_BS != pad).long(), decoder_input_ids=shifted_BT
    ).logits
    return logits_BTV, label_BT
