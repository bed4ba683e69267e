"""Every metric a table may show: its name in the runs, its label, unit, direction, decimals and formula.

A column of a paper's table is one of these names; the metric's direction tells a claim which side is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.runs.errors import RetraceError

Direction = Literal["lower", "higher", "none"]
ARROWS: dict[Direction, str] = {"lower": "↓", "higher": "↑", "none": ""}


@dataclass(frozen=True)
class Metric:
    """How a number of a run is shown and compared.

    Attributes:
        label: what heads its column.
        formula: what it is, in words a reader can check.
        unit: unit of the shown number; empty for a pure number.
        direction: which side is better, or none where neither is.
        decimals: digits after the point.
        scale: the shown number is the run's number times this (100 for shares shown in percent).
        needs: the other row a derived column is computed against: the table's reference, or the row this one
            starts from. None for a metric that a run reports by itself.
    """

    label: str
    formula: str
    unit: str = ""
    direction: Direction = "none"
    decimals: int = 3
    scale: float = 1.0
    needs: Literal["reference", "parent"] | None = None

    @property
    def heading(self) -> str:
        """Label, direction and unit."""
        unit = f"({self.unit})" if self.unit else ""
        return " ".join(part for part in (self.label, ARROWS[self.direction], unit) if part)

    @property
    def difference_unit(self) -> str:
        """Unit of the difference of two values: per cent differ by points."""
        return "points" if self.unit == "%" else self.unit


def _share(label: str, formula: str, direction: Direction, decimals: int = 1) -> Metric:
    return Metric(label, formula, "%", direction, decimals, scale=100.0)


def _count(label: str, formula: str, direction: Direction = "none", decimals: int = 0) -> Metric:
    return Metric(label, formula, "", direction, decimals)


METRICS: dict[str, Metric] = {
    # Tokenizers
    "vocab_size": _count("vocabulary", "tokens a model sees; scaffolds are not among them"),
    "num_scaffold_tokens": _count("scaffolds", "tokens used to build others and then hidden from the model"),
    "num_tokens_expanded": _count("expanded vocabulary", "tokens the encoder works with: vocabulary and scaffolds"),
    "scaffold_share": _share("scaffold share", "num_scaffold_tokens / vocab_size", "none", 2),
    "never_seen_tokens": _count(
        "never seen", "tokens of the vocabulary that the encoded training text never uses", "lower"
    ),
    "rare_tokens": _count("rare", "tokens of the vocabulary that it uses at most rare_count times", "lower"),
    "mean_frequency": Metric(
        "mean frequency", "occurrences of a token of the vocabulary in the encoded training text", "", "higher", 1
    ),
    "median_visible_frequency": Metric(
        "median frequency",
        "of the vocabulary's tokens in the training text, before scaffolds are taken apart",
        "",
        "higher",
        1,
    ),
    "median_scaffold_frequency": Metric(
        "median scaffold frequency", "of the scaffolds in the training text, before they are taken apart", "", "none", 1
    ),
    "taken_apart_share": _share(
        "taken apart", "scaffolds / tokens of the training text, before they are taken apart", "none", 3
    ),
    "bytes_per_token": Metric("bytes a token", "UTF-8 bytes / tokens of the measured text", "", "higher", 4),
    "fertility": Metric("fertility", "tokens / words of the measured text", "", "lower", 4),
    "renyi_efficiency": Metric(
        "Rényi efficiency", "H_2.5(p) / log V, with p the share of each token in the text", "", "higher", 4
    ),
    "out_of_domain_bytes_per_token": Metric(
        "bytes a token, other domain", "bytes_per_token of a corpus of another domain", "", "higher", 4
    ),
    "out_of_domain_fertility": Metric(
        "fertility, other domain", "fertility of a corpus of another domain", "", "lower", 4
    ),
    "out_of_domain_renyi_efficiency": Metric(
        "Rényi efficiency, other domain", "renyi_efficiency of a corpus of another domain", "", "higher", 4
    ),
    # Language models
    "train_loss": Metric("training loss", "mean cross-entropy a token over the last logged steps", "nats", "lower", 4),
    "val_loss": Metric("validation loss", "mean cross-entropy a token of the validation text", "nats", "lower", 4),
    "val_bits_per_byte": Metric(
        "bits a byte", "total cross-entropy of the validation text / ln 2 / its UTF-8 bytes", "", "lower", 4
    ),
    "bits_per_byte_change": Metric(
        "change", "val_bits_per_byte - that of the row it is compared with", "", "lower", 4, 1.0, "reference"
    ),
    # Translation
    "bleu": Metric("BLEU", "sacrebleu's corpus BLEU of the test translations, 0 to 100", "", "higher", 2),
    "chrf": Metric("chrF", "sacrebleu's chrF2 of the test translations, 0 to 100", "", "higher", 2),
    "base_tokens": Metric("base tokens", "training tokens of the base model (d)", "million", "none", 3, 1e-6),
    "val_perplexity": Metric("perplexity", "exp of the validation loss: of a token", "", "lower", 2),
    "state_bytes": Metric(
        "training state",
        "bytes allocated for parameters, gradients, AdamW's moments and sparse indices, without activations",
        "MB",
        "lower",
        3,
        1e-6,
    ),
    "bf16_state_bytes": Metric(
        "as the paper counts",
        "6 bytes a trained number (weight and both moments in bfloat16) and 8 a sparse index, of the shape",
        "MB",
        "lower",
        3,
        1e-6,
    ),
    "tokens": Metric("tokens", "training tokens, those of a base model included", "million", "none", 2, 1e-6),
    "flops": Metric("FLOPs", "training FLOPs, those of a base model included", "1e12", "none", 2, 1e-12),
    "num_parameters": Metric("parameters", "all trained numbers of the model", "million", "none", 3, 1e-6),
    "num_active_parameters": Metric("active parameters", "parameters one token uses", "million", "none", 3, 1e-6),
    # Forecasts, and the law over positions
    "forecast_error": _share(
        "error of the forecast", "mean of |forecast - measured| / measured loss, after the cut", "lower", 2
    ),
    "final_forecast_error": _share(
        "at the end", "|forecast - measured| / measured loss after the last step", "lower", 2
    ),
    "fit_error": _share(
        "error before the cut", "as the error of the forecast, over what the law was fitted to", "lower", 2
    ),
    "position_a0": Metric("a0", "of L_i = a0 / (1 + a1 i) + a2; none where not identified", "nats", "none", 3),
    "position_a1": Metric("a1", "of L_i = a0 / (1 + a1 i) + a2; none where not identified", "", "none", 3),
    "position_a2": Metric(
        "a2", "of L_i = a0 / (1 + a1 i) + a2, the loss far from the start; none where not identified", "nats", "none", 3
    ),
    "position_ratio": Metric(
        "a0 / a1", "what a large a1 leaves identified; none where not even that is", "nats", "none", 3
    ),
    "position_r2": Metric("R²", "of the law, over all positions, weighted by their tokens", "", "higher", 3),
    "position_binned_r2": Metric("R² of bins", "of the law, over log-spaced bins of positions", "", "higher", 3),
    "position_noise_ratio": Metric(
        "residual / noise", "mean square of (loss - law) / standard error of the loss at a position", "", "lower", 2
    ),
    "identified_share": _share("fits identified", "evaluations whose a0, a1 and a2 the losses identify", "none", 0),
    # Experts
    "load_imbalance": Metric(
        "load imbalance", "tokens of the busiest expert / mean tokens an expert, mean over layers", "", "lower", 3
    ),
    "router_entropy": Metric(
        "router entropy", "-sum p ln p of the gate, mean over tokens and layers", "nats", "none", 3
    ),
    # Growth
    "connection_rate": Metric(
        "connection rate", "neighbouring layers that were neighbours in the base / neighbours", "%", "none", 1
    ),
    "start_loss": Metric(
        "validation loss at growth",
        "validation loss of the grown model before its first step, on the text of the evaluations on the way; of a "
        "growth that preserves the function, the base's loss",
        "nats",
        "lower",
        4,
    ),
    "logit_deviation": _share(
        "change at growth",
        "norm of what growth changed of the logits / norm of the base's logits, in float64 on random tokens",
        "none",
        2,
    ),
    # Growth, against the table's reference row of the same seed
    "speedup": Metric(
        "speedup",
        "FLOPs of the reference / FLOPs at which this run reaches its final smoothed training loss, - 1",
        "%",
        "higher",
        1,
        100.0,
        "reference",
    ),
    "speedup_half_window": Metric(
        "speedup, half the window", "speedup with half the smoothing window", "%", "higher", 1, 100.0, "reference"
    ),
    "speedup_double_window": Metric(
        "speedup, twice the window", "speedup with twice the smoothing window", "%", "higher", 1, 100.0, "reference"
    ),
    "flops_saved": Metric(
        "FLOPs saved",
        "1 - FLOPs at which this run reaches the reference's final smoothed training loss / FLOPs of the reference",
        "%",
        "higher",
        1,
        100.0,
        "reference",
    ),
    "val_speedup": Metric(
        "speedup (validation)",
        "as speedup, on the validation losses logged on the way",
        "%",
        "higher",
        1,
        100.0,
        "reference",
    ),
    "val_flops_saved": Metric(
        "FLOPs saved (validation)",
        "as FLOPs saved, on the validation losses logged on the way",
        "%",
        "higher",
        1,
        100.0,
        "reference",
    ),
    # Continual finetuning, R[t, i] = accuracy on task i after task t of T
    "average_accuracy": _share("ACC", "mean over i of R[T, i]", "higher", 2),
    "backward_transfer": _share("BWT", "mean over i < T of R[T, i] - R[i, i]", "higher", 2),
    "forward_transfer": _share("FWT", "mean over i > 1 of R[i-1, i] - b_i, b before any task", "higher", 2),
    "forgetting": _share("forgetting", "mean over i < T of max over i <= t < T of R[t, i] - R[T, i]", "lower", 2),
    "learning_accuracy": _share("learning accuracy", "mean over i of R[i, i]", "higher", 2),
    # Evaluation harness
    "average_acc": _share("mean accuracy", "mean of the harness tasks' acc, every task alike", "higher", 2),
    # A line of descent, against the row this one starts from, same seed
    "bits_per_byte_gain": Metric(
        "bits a byte gained", "val_bits_per_byte of the row it starts from - its own", "", "higher", 4, 1.0, "parent"
    ),
    "average_acc_gain": Metric(
        "mean accuracy gained", "average_acc - that of the row it starts from", "points", "higher", 2, 100.0, "parent"
    ),
}

# The harness names its metrics after its tasks, which params.yaml chooses; `*` in place of a task is all of them.
TASK_METRICS: dict[str, tuple[str, str, Direction, float]] = {
    "_acc_norm": ("acc_norm", "%", "higher", 100.0),
    "_acc": ("acc", "%", "higher", 100.0),
    "_ppl": ("perplexity", "", "lower", 1.0),
}


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        RetraceError: no such metric; the message lists those there are.
    """
    if name in METRICS:
        return METRICS[name]
    for suffix, (measure, unit, direction, scale) in TASK_METRICS.items():
        task = name.removesuffix(suffix)
        if task not in ("", name):
            return Metric(f"{task} {measure}", f"{measure} of the harness task {task}", unit, direction, 2, scale)
    raise RetraceError(
        f"unknown metric {name!r}; known: {', '.join([*METRICS, *(f'<task>{s}' for s in TASK_METRICS)])}"
    )
