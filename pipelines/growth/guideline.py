"""The published rules of thumb for growth: when to stack (d) and how often (g). Imports no torch.

Paper: arXiv 2405.15319, eq. 2 (timing) and the appendix on the growth factor, with C = 6 N D; N, D and d are raw
counts of parameters and tokens. Both were fitted to three model sizes, and the paper itself extrapolates the first
(its Table 4). Here a question outside the fitted range is refused unless extrapolation is asked for: at N = 10M and
D = 200M the rule returns 37.5 billion tokens of base training, 188 times the whole budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

from pipelines.runs.errors import RetraceError

TIMING = (0.88, 163.27, -5.74)
"""a, b, c of log10 d = a log10 N + b / log10 C + c."""
FACTOR = (1.01, -29.88, -7.36)
"""The same of log10 g; the authors call this fit mediocre and advise a constant instead."""
ADVISED_FACTOR = 4

PARAMETERS = (410e6, 3e9)
"""Smallest and largest N of the runs that the rules were fitted to."""
FLOPS = (1e20, 1.2e21)
"""Smallest and largest C of those runs."""


@dataclass(frozen=True)
class Advice:
    """What the rules say for one model and budget.

    Attributes:
        flops: C = 6 N D.
        growth_timing: d, tokens to train the base for.
        growth_factor: g by the fit that its authors call mediocre; ``ADVISED_FACTOR`` is their advice.
        outside: why the answer is an extrapolation; empty inside the fitted range.
    """

    flops: float
    growth_timing: float
    growth_factor: float
    outside: tuple[str, ...]


def law(coefficients: tuple[float, float, float], num_parameters: float, flops: float) -> float:
    """10 ** (a log10 N + b / log10 C + c)."""
    a, b, c = coefficients
    return float(10 ** (a * log10(num_parameters) + b / log10(flops) + c))


def advise(num_parameters: float, train_tokens: float, *, extrapolate: bool = False) -> Advice:
    """d and g for a target of N parameters trained on D tokens.

    Raises:
        RetraceError: a count is not positive, or N or C is outside the fitted range and ``extrapolate`` is not set.
    """
    for name, value in (("parameters", num_parameters), ("tokens", train_tokens)):
        if not value > 0:
            raise RetraceError(f"--{name} must be positive, got {value:g}")
    flops = 6 * num_parameters * train_tokens
    if flops <= 10:
        raise RetraceError(f"C = 6 N D is {flops:g}: the rule divides by log10 C, give counts and not billions")
    outside = tuple(
        f"{what} is {value:.3g}, and the rule was fitted for {low:.3g} to {high:.3g}"
        for what, value, (low, high) in (("N", num_parameters, PARAMETERS), ("C = 6 N D", flops, FLOPS))
        if not low <= value <= high
    )
    if outside and not extrapolate:
        raise RetraceError(
            f"outside the published rule's range: {'; '.join(outside)}. At other scales measure d yourself "
            "(`growth fit-law`), or say --extrapolate to see what the formula gives"
        )
    return Advice(flops, law(TIMING, num_parameters, flops), law(FACTOR, num_parameters, flops), outside)
