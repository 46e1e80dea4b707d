"""Fills one tool's store with runs, inside that tool's own environment: ``python dashboards_fill.py TOOL DIR COUNT``.

Every run is the same for all tools: twenty parameters, a loss of eight points, one result.
MLflow, Optuna and trackio make their tables themselves and are then filled row by row, as their own interfaces would
take hours; Aim and Spore are filled through their interfaces, for as long as they are given. Prints how many there are.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

LIMIT_S = 90.0  # for those that are filled run by run
START_MS = 1_760_000_000_000
POINTS = 8


def runs(count: int) -> Iterator[tuple[int, str, dict[str, float], list[float], float]]:
    """``(number, id, parameters, training loss, result)``."""
    rng = random.Random(20_260)
    for number in range(count):
        params = {f"field_{at}": round(rng.uniform(0, 10), 4) for at in range(20)}
        curve = [round(10.8 * 0.86**at + rng.random() / 50, 5) for at in range(POINTS)]
        yield number, f"{rng.getrandbits(128):032x}", params, curve, round(rng.uniform(2.05, 2.3), 6)


def fast(path: Path) -> sqlite3.Connection:
    """A database to fill in one go."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    return db


def insert(db: sqlite3.Connection, table: str, rows: list[tuple[object, ...]], columns: str) -> None:
    """Rows into a table."""
    marks = ",".join("?" * (columns.count(",") + 1))
    db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def mlflow(folder: Path, count: int) -> int:
    """MLflow's SQLite store."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    experiment = int(store.create_experiment("bench"))
    db = fast(folder / "mlflow.db")
    for number, name, params, curve, result in runs(count):
        at = START_MS + number * 1000
        insert(db, "runs", [(name, f"run {number}", "LOCAL", "", "", "ada", "FINISHED", at, at + 900, "", "active",
                             f"mlflow-artifacts:/{experiment}/{name}", experiment)],
               "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
               "source_version, lifecycle_stage, artifact_uri, experiment_id")  # fmt: skip
        points = [("train_loss", value, at, name, step) for step, value in enumerate(curve)]
        points.append(("val_bpb", result, at, name, POINTS))
        insert(db, "metrics", points, '"key", value, timestamp, run_uuid, step')
        latest = [(*point[:3], point[4], 0, name) for point in points[-2:]]
        insert(db, "latest_metrics", latest, '"key", value, timestamp, step, is_nan, run_uuid')
        insert(
            db, "params", [(key, str(value), name) for key, value in params.items()], '"key", value, run_uuid'
        )
        tags = [("mlflow.runName", f"run {number}", name), ("verdict", "confirmed", name)]
        insert(db, "tags", tags, '"key", value, run_uuid')
    db.execute("COMMIT")
    return count


def trackio(folder: Path, count: int) -> int:
    """A trackio project."""
    from trackio.sqlite_storage import SQLiteStorage

    db = fast(SQLiteStorage.init_db("bench"))
    for number, name, params, curve, result in runs(count):
        at = f"2026-01-01T00:00:{number % 60:02d}+00:00"
        logs = [{"train_loss": value} for value in curve] + [{"val_bpb": result}]
        rows = [(name, at, f"run-{number}", step, json.dumps(log)) for step, log in enumerate(logs)]
        insert(db, "metrics", rows, "run_id, timestamp, run_name, step, metrics")
        config = json.dumps(params | {"_Username": "ada", "_Created": at})
        insert(db, "configs", [(name, f"run-{number}", config, at)], "run_id, run_name, config, created_at")
    db.execute("COMMIT")
    return count


def optuna(folder: Path, count: int) -> int:
    """An Optuna study in SQLite."""
    import optuna as library

    library.create_study(storage=f"sqlite:///{folder}/optuna.db", study_name="bench")
    form = (
        '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 10.0, "log": false}}'
    )
    db = fast(folder / "optuna.db")
    for number, _, params, curve, result in runs(count):
        at = datetime(2026, 1, 1) + timedelta(seconds=number)
        begun, ended = str(at), str(at + timedelta(seconds=1))
        insert(db, "trials", [(number + 1, number, 1, "COMPLETE", begun, ended)],
               "trial_id, number, study_id, state, datetime_start, datetime_complete")  # fmt: skip
        insert(
            db, "trial_values", [(number + 1, 0, result, "FINITE")], "trial_id, objective, value, value_type"
        )
        rows = [(number + 1, key, value, form) for key, value in params.items()]
        insert(db, "trial_params", rows, "trial_id, param_name, param_value, distribution_json")
        steps = [(number + 1, step, value, "FINITE") for step, value in enumerate(curve)]
        columns = "trial_id, step, intermediate_value, intermediate_value_type"
        insert(db, "trial_intermediate_values", steps, columns)
    db.execute("COMMIT")
    return count


def aim(folder: Path, count: int) -> int:
    """Runs of Aim, through its interface."""
    from aim import Repo, Run

    repo, began_s, made = Repo.from_path(str(folder), init=True), time.monotonic(), 0
    for number, _, params, curve, result in runs(count):
        run = Run(
            repo=repo, system_tracking_interval=None, log_system_params=False, capture_terminal_logs=False
        )
        run.name, run["hparams"] = f"run {number}", params
        for step, value in enumerate(curve):
            run.track(value, name="train_loss", step=step)
        run.track(result, name="val_bpb", step=POINTS)
        run.close()
        made += 1
        if time.monotonic() - began_s > LIMIT_S:
            break
    return made


if __name__ == "__main__":
    where = Path(sys.argv[2])
    print(json.dumps({"runs": {"mlflow": mlflow, "trackio": trackio, "optuna": optuna, "aim": aim}[sys.argv[1]](
        where, int(sys.argv[3]))}))  # fmt: skip
