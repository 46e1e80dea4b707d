"""Experiments as an MLflow file store: one MLflow experiment per task, one run per experiment, the curve as a metric.

The layout is that of ``mlruns``: a folder per experiment, in it one per run, in each a ``meta.yaml`` and the files of
``params``, ``metrics`` (lines ``time value step``) and ``tags``. Ids follow from those of the records, so that writing
again changes nothing, and only files whose bytes differ are touched. What another wrote there stays.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from explorer import files
from explorer.db import Db
from explorer.foreign import ForeignRun, every
from spore_borg.errors import UsageError

FINISHED, FAILED = 3, 4  # MLflow's RunStatus
PARTS = ("artifacts", "metrics", "params", "tags")  # without one of them, MLflow takes the folder for no run
OPEN = "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"


@dataclass(slots=True)
class Written:
    """What a writer did."""

    runs: int = 0
    projects: set[str] = field(default_factory=set)
    files_changed: int = 0


def put(path: Path, text: str) -> int:
    """Make a file hold the text; 1 if it did not before."""
    return files.put(path, text.encode("utf-8", "replace"))


def yaml(values: dict[str, object]) -> str:
    """A flat mapping as YAML: every value as JSON, which YAML reads."""
    return "".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in sorted(values.items())
    )


def experiment_id(project: str) -> str:
    """18 digits that follow from the project's name, as MLflow's own ids look."""
    number = int.from_bytes(hashlib.sha256(project.encode()).digest()[:8], "big")
    return str(10**17 + number % (9 * 10**17))


def _experiment(folder: Path, project: str, created_ms: int) -> int:
    name = experiment_id(project)
    meta: dict[str, object] = {
        "artifact_location": f"mlflow-artifacts:/{name}",
        "creation_time": created_ms,
        "experiment_id": name,
        "last_update_time": created_ms,
        "lifecycle_stage": "active",
        "name": project,
    }
    return put(folder / name / "meta.yaml", yaml(meta))


def _run(folder: Path, run: ForeignRun) -> int:
    experiment = experiment_id(run.project)
    place = folder / experiment / run.id
    meta: dict[str, object] = {
        "artifact_uri": f"mlflow-artifacts:/{experiment}/{run.id}/artifacts",
        "end_time": run.end_ms,
        "entry_point_name": "",
        "experiment_id": experiment,
        "lifecycle_stage": "active",
        "run_id": run.id,
        "run_name": run.name,
        "run_uuid": run.id,
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": run.start_ms,
        "status": FAILED if run.failed else FINISHED,
        "tags": [],
        "user_id": run.user,
    }
    changed = 0
    for part in PARTS:
        (place / part).mkdir(parents=True, exist_ok=True)
    for name, text in run.params.items():
        changed += put(place / "params" / name, text)
    for name, points in run.metrics.items():
        lines = [f"{run.end_ms} {point.value} {point.step}\n" for point in points]
        changed += put(place / "metrics" / name, "".join(lines))
    tags = run.tags | {"mlflow.runName": run.name, "mlflow.user": run.user}
    for name, text in tags.items():
        changed += put(place / "tags" / name, text)
    return changed + put(place / "meta.yaml", yaml(meta))  # last: without it, MLflow sees no run


def write(db: Db, folder: Path, newest: int | None = None) -> Written:
    """Write the experiments into an MLflow store.

    Args:
        folder: a directory, or one to be made. newest: only so many.
    Raises:
        UsageError: the folder is a file. OSError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(detail=f"{folder} is a file; an MLflow store is a directory. Give another with -o.")
    done = Written()
    for run in every(db, newest):
        if run.project not in done.projects:
            done.projects.add(run.project)
            done.files_changed += _experiment(folder, run.project, 0)
        done.files_changed += _run(folder, run)
        done.runs += 1
    return done
