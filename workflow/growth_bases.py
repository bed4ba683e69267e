"""What grown models start from: the sizes of a smaller base, and what a V-cycle's row may say."""

from __future__ import annotations

from fractions import Fraction

from pipelines.megatron.spec import WIDTHS
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import method_card
from workflow.plan import Values

# Nothing is known of AdamW's moments on another level, and each has a schedule and text of its own.
CYCLE_POLICIES = {"optimizer_policy": "fresh", "schedule_policy": "restart", "data_policy": "disjoint"}


def check_cycle(own: Values, between: Values) -> None:
    """Refuse keys that a V-cycle's row cannot have.

    Raises:
        RetraceError: names the key.
    """
    for key in own:
        if key.startswith("model."):
            raise RetraceError(f"{key}: a V-cycle's large model is that of params.yaml's growth.model: change it there")
        if key in CYCLE_POLICIES and own[key] != CYCLE_POLICIES[key]:
            raise RetraceError(
                f"{key}: {own[key]}: every level of a V-cycle begins as {CYCLE_POLICIES[key]}; leave it out"
            )
    for key in between:
        raise RetraceError(f"base.{key}: a row grows in two hops or by a V-cycle, not both: leave out base. or cycle.")


def smaller_base(method: str, grown: Values) -> Values:
    """Keys of a base model's spec that a method turns into the grown model's, where not every base is that anyway.

    Raises:
        RetraceError: a size of the target is no multiple of the growth factor.
    """
    axis, options, model = method_card("growth", method).axis, grown["method"], grown["model"]
    where = f"growth.{method}"
    if axis == "width":
        narrower = smaller_model(model, {"width": ("growth_factor", options["growth_factor"])}, where)
        return {"model.num_layers": model["num_layers"], **narrower}
    if axis == "both":
        named = {"depth": "growth_factor", "width": "width_factor"}
        return smaller_model(model, {each: (name, options[name]) for each, name in named.items()}, where)
    return {}


def smaller_model(model: Values, factors: dict[str, tuple[str, float]], where: str) -> Values:
    """Keys of the spec of a model that is as many times shallower and narrower.

    Args:
        factors: ``depth`` or ``width`` or both -> the key under ``where`` and its factor.

    Raises:
        RetraceError: names the key and the size that is no multiple of its factor.
    """
    sizes = {"depth": ("num_layers",), "width": WIDTHS}
    smaller = {}
    for axis, (name, factor) in factors.items():
        for size in sizes[axis]:
            quotient = model[size] / Fraction(factor).limit_denominator(1000)
            if quotient.denominator != 1:
                raise RetraceError(
                    f"params.yaml: {where}.{name} is {factor}, and model.{size} {model[size]} is no multiple of it"
                )
            smaller[f"model.{size}"] = quotient.numerator
    return smaller
