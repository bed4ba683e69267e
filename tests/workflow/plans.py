"""The plan of all papers for given parameters, and how two plans differ."""

from __future__ import annotations

import copy
from pathlib import Path

from workflow.papers import PaperPlan, plan_papers


def plan(params: dict, root: Path) -> PaperPlan:
    """What all papers need; the parameters stay as they are."""
    return plan_papers(copy.deepcopy(params), str(root))


def changed_stages(before: PaperPlan, after: PaperPlan) -> set[str]:
    """Stages of the jobs whose key is new."""
    old = {job.key for job in before.jobs.values()}
    return {"/".join(path.split("/")[1:3]) for path, job in after.jobs.items() if job.key not in old}
