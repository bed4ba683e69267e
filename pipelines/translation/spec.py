"""Specs of the translation verbs. Imports no torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pipelines.runs.verb import Spec


class PairsSpec(Spec):
    """Which files of a folder are the two sides of which split: ``STEM.LANGUAGE`` or ``STEM.LANGUAGE.gz``."""

    source: str = Field("en", min_length=1, description="language translated from: the files' suffix")
    target: str = Field("de", min_length=1, description="language translated to")
    train: str = Field("train", description="stem of the training files")
    validation: str = Field("val", description="stem of the validation files")
    test: str = Field("test_2016_flickr", description="stem of the test files, on which BLEU is computed")
    max_train: int | None = Field(None, ge=1, description="training pairs to stop at; default: all")
    max_test: int | None = Field(None, ge=1, description="test pairs to stop at; default: all")

    @model_validator(mode="after")
    def _two_languages(self) -> Self:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}: name two languages")
        return self


class EncoderDecoderSpec(Spec):
    """Shape of a Transformer encoder-decoder; both sides and the output share one embedding matrix."""

    num_layers: int = Field(2, ge=1, description="of the encoder, and of the decoder")
    hidden_size: int = Field(128, ge=2)
    ffn_hidden_size: int = Field(512, ge=1)
    num_attention_heads: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} must be even and divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        return self


class TranslationTrainingSpec(Spec):
    """Optimisation of one translation model, after Vaswani et al. 2017 (arXiv 1706.03762), section 5."""

    epochs: int = Field(10, ge=1, description="times every training pair is seen, whatever the tokenizer")
    batch_size: int = Field(64, ge=1, description="pairs a step")
    lr: float = Field(2e-3, gt=0, description="highest rate, at the end of the warm-up")
    lr_warmup_iters: int = Field(400, ge=1, description="steps; then the rate falls with the root of the step")
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_eps: float = 1e-9
    clip_grad: float = Field(1.0, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    max_length: int = Field(96, ge=2, description="tokens of either side in training; longer ones are cut and counted")
    log_interval: int = Field(20, ge=1)


class DecodingSpec(Spec):
    """How test sentences are translated."""

    num_beams: int = Field(4, ge=1)
    length_penalty: float = 1.0
    max_length: int = Field(96, ge=2, description="tokens of a translation")
    batch_size: int = Field(32, ge=1)


class TrainSpec(Spec):
    """A translation model trained from random weights and scored on the test pairs."""

    model: EncoderDecoderSpec = Field(default_factory=lambda: EncoderDecoderSpec.model_validate({}))
    training: TranslationTrainingSpec = Field(default_factory=lambda: TranslationTrainingSpec.model_validate({}))
    decoding: DecodingSpec = Field(default_factory=lambda: DecodingSpec.model_validate({}))
    seed: int = Field(0, ge=0, description="initial weights, order of the pairs and dropout")
