"""tables claims: every claim of every paper against the seed-paired differences of its table."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.tables.metrics import metric
from pipelines.tables.render import Grid, html, html_page, markdown
from pipelines.tables.spec import CELLS, ClaimSpec, ClaimsSpec
from pipelines.tables.verdict import VERDICTS, Interval, Verdict, judge, t_interval

FIELDS = (
    "paper",
    "id",
    "verdict",
    "says",
    "where",
    "table",
    "metric",
    "unit",
    "better",
    "than",
    "difference",
    "low",
    "high",
    "n",
    "detail",
)
EXPLANATION = {
    "reproduced": "the interval lies wholly on the claimed side",
    "trend": "the right sign, but the interval reaches zero",
    "inconclusive": "the wrong sign or none and the interval reaches zero, fewer than two seeds, or an undefined value",
    "contradicted": "the interval lies wholly on the other side",
    "not run at this scale": "no run of one of the rows, or of the metric",
}


@dataclass(frozen=True)
class Decision:
    """A claim and what came of it.

    Attributes:
        interval: of metric(better) - metric(than) in the shown unit, in the metric's own direction; None
            where nothing could be compared.
        detail: why, where the interval does not say it.
    """

    claim: ClaimSpec
    verdict: Verdict
    interval: Interval | None = None
    detail: str = ""

    def line(self) -> dict[str, str | int | float]:
        """One line of claims.csv."""
        numbers: dict[str, str | int | float] = {"difference": "", "low": "", "high": "", "n": 0}
        if self.interval is not None:
            bounded = self.interval.n > 1
            numbers = {
                "difference": self.interval.mean,
                "low": self.interval.low if bounded else "",
                "high": self.interval.high if bounded else "",
                "n": self.interval.n,
            }
        values = {name: getattr(self.claim, name, "") for name in FIELDS}
        unit = metric(self.claim.metric).difference_unit
        return {**values, **numbers, "unit": unit, "verdict": self.verdict, "detail": self.detail}


def decide(claim: ClaimSpec, paper: dict[str, Any] | None, confidence: float = 0.95) -> Decision:
    """Hold a claim against the cells of its paper (the content of cells.json; None if the paper was not run).

    Seeds are paired: only seeds that both rows have are compared. A value that is undefined for one of them
    makes the claim inconclusive, since leaving that seed out would favour one side.

    Raises:
        RetraceError: the metric has no better side.
    """
    shown = metric(claim.metric)
    if shown.direction == "none":
        raise RetraceError(f"claim {claim.paper}.{claim.id}: metric {claim.metric} has no better side")
    values = {} if paper is None else paper["tables"].get(claim.table, {}).get("values", {})
    better = values.get(claim.better, {}).get(claim.metric, {})
    if isinstance(claim.than, str):
        than = values.get(claim.than, {}).get(claim.metric, {})
    else:
        # A constant is stated in the run's own unit, as the values are.
        than = dict.fromkeys(better, claim.than)
    missing = [str(row) for row, found in ((claim.better, better), (claim.than, than)) if not found]
    if missing:
        return Decision(claim, "not run at this scale", detail=f"no {claim.metric} of {missing[0]}")
    seeds = [seed for seed in better if seed in than]
    if not seeds:
        return Decision(claim, "inconclusive", detail="the rows have no seed in common")
    undefined = [seed for seed in seeds if better[seed] is None or than[seed] is None]
    if undefined:
        detail = f"{claim.metric} is undefined for seed {', '.join(undefined)} of {', '.join(seeds)}"
        return Decision(claim, "inconclusive", detail=detail)
    differences = [(better[seed] - than[seed]) * shown.scale for seed in seeds]
    interval = t_interval(differences, confidence)
    verdict = judge(interval if shown.direction == "higher" else _mirrored(interval))
    return Decision(claim, verdict, interval, "one seed has no interval" if interval.n < 2 else "")


def claims(spec: ClaimsSpec, inputs: dict[str, Any], job: Job) -> dict[str, int]:
    """Write claims.{md,csv,html}; return how many claims got each verdict."""
    papers: dict[str, dict[str, Any]] = {}
    for folder in inputs["paper"]:
        path = Path(folder) / CELLS
        if not path.is_file():
            raise RetraceError(f"{path} is missing: --paper takes a folder made by `tables build`")
        record = json.loads(path.read_text(encoding="utf-8"))
        papers[record["paper"]] = record
    decisions = [decide(claim, papers.get(claim.paper), spec.confidence) for claim in spec.claims]
    with (job.out / "claims.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(decision.line() for decision in decisions)
    grid = _grid(decisions)
    title, intro = "Claims", _intro(spec.confidence)
    rules = "".join(f"- **{verdict}**: {EXPLANATION[verdict]}\n" for verdict in VERDICTS)
    (job.out / "claims.md").write_text(f"# {title}\n\n{intro}\n\n{markdown(grid)}\n{rules}", encoding="utf-8")
    (job.out / "claims.html").write_text(_page(title, intro, grid), encoding="utf-8")
    counts = {verdict: sum(d.verdict == verdict for d in decisions) for verdict in VERDICTS}
    return {f"num_{verdict.replace(' ', '_')}": count for verdict, count in counts.items()}


def difference_text(decision: Decision) -> str:
    """``difference [low, high] (n)`` in the metric's unit, or why there is none."""
    if decision.interval is None:
        return decision.detail
    shown, interval = metric(decision.claim.metric), decision.interval
    bounds = f" [{interval.low:+,.{shown.decimals}f}, {interval.high:+,.{shown.decimals}f}]" if interval.n > 1 else ""
    return f"{interval.mean:+,.{shown.decimals}f}{bounds} {shown.difference_unit}".rstrip() + f" ({interval.n})"


def _mirrored(interval: Interval) -> Interval:
    return Interval(-interval.mean, -interval.high, -interval.low, interval.n)


def _grid(decisions: list[Decision]) -> Grid:
    rows = [
        [
            decision.claim.paper,
            decision.claim.says,
            decision.claim.where,
            decision.verdict,
            f"{metric(decision.claim.metric).label}: {decision.claim.better} - {_than(decision.claim)}",
            difference_text(decision),
        ]
        for decision in decisions
    ]
    return Grid(["paper", "claim", "where", "verdict", "compared", "difference [interval] (seeds)"], rows, 6)


def _than(claim: ClaimSpec) -> str:
    return claim.than if isinstance(claim.than, str) else f"{claim.than:g}"


def _intro(confidence: float) -> str:
    return (
        f"Differences are paired by seed, with their {math.floor(confidence * 1000 + 0.5) / 10:g} % t interval. "
        "The verdicts are about runs of this size, not about the paper's."
    )


def _page(title: str, intro: str, grid: Grid) -> str:
    rules = "".join(f"<li><b>{verdict}</b>: {EXPLANATION[verdict]}</li>" for verdict in VERDICTS)
    return html_page(title, f"<h1>{title}</h1><p>{intro}</p>{html(grid)}<ul>{rules}</ul>")
