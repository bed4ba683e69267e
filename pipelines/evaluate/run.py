"""``evaluate run``: lm-evaluation-harness over local tasks; its results, less what changes from run to run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluate.models import load_lm
from pipelines.evaluate.spec import RunSpec
from pipelines.evaluate.task_folder import HarnessTask, read_tasks
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask

    from pipelines.runs.job import Job

RESULTS = "results.json"
FINAL_NAMES = {"acc": "acc", "acc_norm": "acc_norm", "perplexity": "ppl"}
# Set before the harness and what it stands on are imported: no look at the network, no processes behind a bootstrap.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DISABLE_MULTIPROC": "1",
}


def run(spec: RunSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Score the model on the tasks and write results.json.

    Raises:
        RetraceError: an unknown task or a broken item, no model, no tokenizer, or few-shot examples that run out.
    """
    tasks = read_tasks(inputs["tasks"], spec.tasks)
    for task in tasks:
        if len(task.rows) <= spec.num_fewshot:
            raise RetraceError(
                f"num_fewshot {spec.num_fewshot} must be below the {len(task.rows)} items of {task.name}"
            )
    os.environ.update(ENVIRONMENT)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    lm = load_lm(
        inputs["model"],
        inputs.get("tokenizer"),
        execution=job.execution,
        batch_size=spec.batch_size,
        max_length=spec.max_length,
    )
    results = score(lm, tasks, spec)
    truncated = getattr(lm, "num_truncated", 0)
    if truncated:
        job.say(f"{truncated} requests were longer than the model's {lm.max_length} tokens and lost their left end")
    results["num_truncated"] = truncated
    text = json.dumps(results, indent=2, sort_keys=True, default=float) + "\n"
    (job.out / RESULTS).write_text(text, encoding="utf-8")
    return final_metrics(results)


def score(lm: LM, tasks: list[HarnessTask], spec: RunSpec) -> dict[str, Any]:
    """The harness's results on tasks, without what depends on the machine or the moment.

    Args:
        lm: any model of the harness.

    Returns:
        the harness's ``results``, ``versions``, ``n-shot``, ``n-samples``, ``higher_is_better`` and ``configs``,
        and ``tasks``: each task's card, with its chance level.
    """
    import lm_eval.evaluator

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    built = {task.name: _harness_task(task, spec) for task in tasks}
    # The harness prints what it bootstraps; standard output belongs to the caller.
    with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else None):
        found = lm_eval.evaluator.evaluate(
            lm,
            {"tasks": built},
            limit=spec.limit,
            bootstrap_iters=spec.bootstrap_iters,
            log_samples=False,
        )
    for config in found["configs"].values():
        # The loader and its arguments say where the file lay, not what was asked.
        for key in ("custom_dataset", "dataset_path", "dataset_kwargs"):
            config.pop(key, None)
    kept = ("results", "versions", "n-shot", "n-samples", "higher_is_better", "configs")
    return {**{key: found[key] for key in kept}, "tasks": {task.name: task.card for task in tasks}}


def final_metrics(results: dict[str, Any]) -> dict[str, float | int | str]:
    """``<task>_acc``, ``<task>_acc_norm`` and ``<task>_ppl`` where the task has them, and the plain mean of the acc."""
    final: dict[str, float | int | str] = {}
    accuracies = []
    for task, card in results["tasks"].items():
        for metric in card["metrics"]:
            value = float(results["results"][task][f"{metric},none"])
            final[f"{task}_{FINAL_NAMES[metric]}"] = value
            if metric == "acc":
                accuracies.append(value)
    final["average_acc"] = sum(accuracies) / len(accuracies)
    final["num_items"] = sum(each["effective"] for each in results["n-samples"].values())
    return final


def _harness_task(task: HarnessTask, spec: RunSpec) -> ConfigurableTask:
    """The task as the harness builds it from its YAML, but over the items already read.

    The harness would load a JSON file through a cache in the home folder, which is slower and outlives the file.
    """
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    items = {"test": Dataset.from_list(task.rows)}

    def read_items(**_: Any) -> dict[str, Dataset]:
        return items

    built = ConfigurableTask(config={**task.config, "custom_dataset": read_items})
    # As in simple_evaluate: a task that fixes its own number of examples keeps it.
    if built.get_config("num_fewshot") is None:
        built.set_config(key="num_fewshot", value=spec.num_fewshot)
    built.set_fewshot_seed(seed=spec.seed)
    return built
