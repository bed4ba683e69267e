"""The MLflow mirror: a copy of finished runs to look at and compare; run folders stay the only truth.

One process copies many runs, because starting MLflow costs more than most jobs, and because jobs that first
touch a missing database together break it. A run is found again by its key, so mirroring twice adds nothing
and a restored artifact points at the run that computed it; the store's record has that run's id, too, for those
who restore it elsewhere. Nothing here fails a pipeline: the run folders are whole, and mirroring can be done
again at any time.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.runs.identity import RUN_RECORD
from pipelines.runs.job import read_metrics, read_record
from pipelines.runs.mlflow_database import experiment_name, is_prepared, prepared_client, tracking_uri
from pipelines.runs.records import find_runs, flatten, is_number
from pipelines.runs.store import Store, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

# MLflow's own limits for one call and for one value.
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
LONGEST_PARAM = 6000


@click.command(
    "prepare", help="Create or upgrade MLflow's database and experiment, once, before parallel jobs log to it."
)
def prepare() -> None:
    """Leave a database that many jobs may open at once; a fault is a warning, never a failure."""
    try:
        if not is_prepared():
            prepared_client()
    except Exception as error:
        _warn(f"{tracking_uri()} could not be prepared ({_first_line(error)})")


@click.command("mirror", help="Copy the runs at PATHS (run folders or trees of them; default: results) into MLflow.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--papers", type=click.Path(path_type=Path), help="JSON: paper -> list of its run folders")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for run folder -> MLflow run id")
def mirror(paths: tuple[Path, ...], papers: Path | None, out: Path | None) -> None:
    """Copy runs and write each one's MLflow id into its run.json."""
    runs = find_runs(paths or (Path("results"),))
    papers_of = _papers_of(papers)
    ids: dict[str, str] = {}
    failures: list[str] = []
    try:
        copies = Mirror(prepared_client(), open_store())
    except Exception as error:
        failures = [_first_line(error)] * len(runs)
    else:
        for run in runs:
            try:
                ids[str(run)] = copies.copy(run, papers_of.get(str(run), []))
            except Exception as error:
                failures.append(f"{run}: {_first_line(error)}")
    click.echo(f"{len(ids)} of {len(runs)} runs are in MLflow ({tracking_uri()})", err=True)
    if failures:
        _warn(
            f"{len(failures)} runs were not copied ({failures[0]}); the runs themselves are whole. "
            "To copy them again: python -m pipelines runs mirror"
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")


class Mirror:
    """Copies of runs in one experiment of one MLflow client; the store, if there is one, is told their ids."""

    def __init__(self, client: MlflowClient, store: Store | None = None) -> None:
        self.client = client
        self.store = store
        experiment = client.get_experiment_by_name(experiment_name())
        assert experiment is not None
        self.experiment_id: str = experiment.experiment_id
        self.finished: dict[str, str] = {}
        # Copies that were cut short: they are filled again, which adds nothing to what they have.
        self.unfinished: dict[str, str] = {}
        token = None
        while True:
            page = client.search_runs([self.experiment_id], max_results=1000, page_token=token)
            for each in page:
                kind = self.finished if each.info.status == "FINISHED" else self.unfinished
                kind.setdefault(each.data.tags.get("key", ""), each.info.run_id)
            token = page.token
            if not token:
                break

    def copy(self, run: Path, papers: list[str]) -> str:
        """Copy one run unless a run of its key is there, and note the id in its run.json.

        The run.json of a restored artifact goes on naming the run that computed it, maybe on a colleague's server.

        Args:
            papers: keys of the papers whose tables name the run; it becomes a child of the first.

        Returns:
            The MLflow run id.
        """
        record = read_record(run)
        tags = _paper_tags(papers)
        if papers:
            tags["mlflow.parentRunId"] = self._parent(papers[0])
        run_id = self.finished.get(record["key"])
        if run_id is None:
            tags |= _tags(record)
            started = int(datetime.fromisoformat(record["started"]).timestamp() * 1000)
            run_id = self._create(record["key"], _run_name(run), started, tags)
            self._fill(run_id, record, list(_metrics(read_metrics(run), record, started)))
            self.client.set_terminated(run_id, end_time=started + int(record["seconds"] * 1000))
            self.finished[record["key"]] = run_id
        else:
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)
        # A copy of what was computed elsewhere is not the run that computed it.
        restored = record.get("provenance") == "restored"
        if record.get("mlflow_run_id") != run_id and not (restored and record.get("mlflow_run_id")):
            _note_run_id(run, {**record, "mlflow_run_id": run_id})
        if self.store is not None and not restored:
            self.store.note_run_id(record["key"], run_id)
        return run_id

    def _create(self, key: str, name: str, started: int, tags: dict[str, str]) -> str:
        if key in self.unfinished:
            return self.unfinished.pop(key)
        created = self.client.create_run(
            self.experiment_id, start_time=started, run_name=name, tags={"key": key, **tags}
        )
        run_id: str = created.info.run_id
        return run_id

    def _parent(self, paper: str) -> str:
        """The run that stands for a paper; a run that no record has, so its key is the paper's name."""
        key = f"paper {paper}"
        if key not in self.finished:
            run_id = self._create(key, paper, int(time.time() * 1000), _paper_tags([paper]))
            self.client.set_terminated(run_id)
            self.finished[key] = run_id
        return self.finished[key]

    def _fill(self, run_id: str, record: dict[str, Any], metrics: list[Metric]) -> None:
        from mlflow.entities import Param

        params = [Param(_clean(key), str(value)[:LONGEST_PARAM]) for key, value in flatten(record["spec"]).items()]
        for first in range(0, len(params), PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=params[first : first + PARAMS_A_BATCH])
        for first in range(0, len(metrics), METRICS_A_BATCH):
            self.client.log_batch(run_id, metrics=metrics[first : first + METRICS_A_BATCH])


def _note_run_id(run: Path, record: dict[str, Any]) -> None:
    """Replace run.json at once, and put the times of file and folder back: to Snakemake nothing has changed."""
    path = run / RUN_RECORD
    times = {each: (each.stat().st_atime_ns, each.stat().st_mtime_ns) for each in (path, run)}
    partial = run / f".{RUN_RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.utime(partial, ns=times[path])
    partial.replace(path)
    os.utime(run, ns=times[run])


def _metrics(lines: list[dict[str, Any]], record: dict[str, Any], started: int) -> Iterator[Metric]:
    """Every number of every line at its step; times are spread evenly, as metrics.jsonl has none."""
    from mlflow.entities import Metric

    milliseconds = record["seconds"] * 1000
    step = 0
    for index, line in enumerate(lines):
        step = int(line.get("step", step))
        when = started + int(milliseconds * (index + 1) / len(lines))
        for key, value in flatten(line).items():
            if is_number(value) and key != "step":
                yield Metric(_clean(key), float(value), when, step)
    for key in ("seconds", "peak_memory_bytes"):
        if is_number(record.get(key)):
            yield Metric(key, float(record[key]), started + int(milliseconds), step)


def _tags(record: dict[str, Any]) -> dict[str, str]:
    method = record["spec"].get("method")
    inputs = {name: keys for name, keys in record["inputs"].items() if isinstance(keys, str)}
    dataset = next((inputs[name] for name in ("tokens", "corpus", "tasks") if name in inputs), None)
    tags = {
        "key": record["key"],
        "stage": record["stage"],
        "verb": record["verb"],
        "method": method["name"] if isinstance(method, dict) else method,
        "seed": record["spec"].get("seed"),
        "dataset": dataset,
        "commit": record.get("git_commit"),
        "mlflow.source.git.commit": (record.get("git_commit") or "").rstrip("+") or None,
        "code_digest": record["code_digest"],
        "provenance": record.get("provenance"),
        "restored_from_run": record.get("mlflow_run_id") if record.get("provenance") == "restored" else None,
        "world_size": record.get("world_size"),
    }
    return {key: str(value) for key, value in tags.items() if value is not None}


def _paper_tags(papers: list[str]) -> dict[str, str]:
    return {"papers": ",".join(papers)} if papers else {}


def _papers_of(path: Path | None) -> dict[str, list[str]]:
    """Run folder -> papers that name it."""
    if path is None:
        return {}
    found: dict[str, list[str]] = {}
    for paper, runs in json.loads(path.read_text(encoding="utf-8")).items():
        for run in runs:
            found.setdefault(run, []).append(paper)
    return found


def _run_name(run: Path) -> str:
    """The folder below ``results``: what a person knows the run by."""
    parts = run.resolve().parts
    return "/".join(parts[parts.index("results") + 1 :] if "results" in parts else parts[-1:])


def _clean(key: str) -> str:
    """A name MLflow accepts: letters, digits and ``_ - . / : space``."""
    return re.sub(r"[^\w\-./: ]", "_", key)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _warn(text: str) -> None:
    click.echo(f"warning: MLflow: {text}", err=True)
