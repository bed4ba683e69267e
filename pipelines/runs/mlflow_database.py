"""MLflow's database, made once and whole.

Jobs that first touch a missing database together all fail and leave it broken, so it is prepared before them:
a new sqlite file is made beside its place and linked there, an old one is upgraded by one process.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runs.placement import make_partial

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "retrace"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or a database file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME, or ``retrace``."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def is_prepared() -> bool:
    """True when the sqlite file is of this MLflow and has the experiment; found without importing MLflow."""
    path = _sqlite_path(tracking_uri())
    if path is None or not path.exists() or not _is_current(path):
        return False
    query = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    return bool(_ask(path, query, experiment_name()))


def prepared_client() -> MlflowClient:
    """A client whose database and experiment exist and are of this MLflow's schema."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # An unreachable server is a warning within seconds, not after minutes of retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    path = _sqlite_path(tracking_uri())
    if path is not None and not path.exists():
        _make(path)
    elif path is not None and not _is_current(path):
        from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

        _upgrade_db(create_sqlalchemy_engine(tracking_uri()))
        _mark_current(path)
    client = MlflowClient(tracking_uri())
    _create_experiment(client)
    return client


def _make(path: Path) -> None:
    from mlflow import MlflowClient

    folder = make_partial(path)
    partial = folder / path.name
    try:
        _create_experiment(MlflowClient(f"sqlite:///{partial}"))
        _mark_current(partial)
        # Whoever is first wins: a later one must not be swapped in under open connections.
        if not path.exists():
            os.link(partial, path)
    except FileExistsError:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create_experiment(client: MlflowClient) -> None:
    if client.get_experiment_by_name(experiment_name()) is None:
        client.create_experiment(experiment_name())


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _mlflow_number() -> int:
    """MLflow's version as one number, kept in sqlite's user_version, which MLflow leaves alone."""
    major, minor, patch = (int(part) for part in re.findall(r"\d+", version("mlflow"))[:3])
    return major * 1_000_000 + minor * 1_000 + patch


def _is_current(path: Path) -> bool:
    return _ask(path, "PRAGMA user_version") == [(_mlflow_number(),)]


def _mark_current(path: Path) -> None:
    _ask(path, f"PRAGMA user_version = {_mlflow_number()}")


def _ask(path: Path, query: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(path, timeout=60)) as database, database:
        return database.execute(query, values).fetchall()
