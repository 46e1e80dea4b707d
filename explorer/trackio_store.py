"""Experiments as trackio projects: one SQLite file per task in a directory that ``TRACKIO_DIR`` names.

The tables are those of trackio 0.24 and later; trackio adds those that are missing when it opens a file. A file is made
anew beside the old one and put in its place when it is whole, so the same records give the same bytes. A file that
somebody else made is left alone.
"""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from explorer.db import Db
from explorer.foreign import ForeignRun, every
from explorer.mlflow_store import Written
from spore_borg.errors import UsageError

OPEN = "TRACKIO_DIR={folder} trackio show"
MADE_BY = ("made_by", "borg export")
TABLES = (
    """CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, timestamp TEXT NOT NULL,
      run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL, log_id TEXT, space_id TEXT)""",
    """CREATE TABLE configs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, run_name TEXT NOT NULL,
      config TEXT NOT NULL, created_at TEXT NOT NULL, UNIQUE(run_id))""",
    "CREATE TABLE project_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
INDEXES = (
    "CREATE INDEX idx_metrics_run_step ON metrics(run_id, step)",
    "CREATE INDEX idx_metrics_run_timestamp ON metrics(run_id, timestamp)",
    "CREATE INDEX idx_configs_run_name ON configs(run_name)",
)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()


def _ours(path: Path) -> bool:
    """Whether an export made the file."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        return (
            db.execute("SELECT value FROM project_metadata WHERE key = ?", MADE_BY[:1]).fetchone() is not None
        )
    except sqlite3.DatabaseError:
        return False
    finally:
        db.close()


def _begin(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    for sql in TABLES:
        db.execute(sql)
    db.execute("INSERT INTO project_metadata VALUES (?, ?)", MADE_BY)
    return db


def _add(db: sqlite3.Connection, run: ForeignRun) -> None:
    steps: dict[int, dict[str, float]] = {}
    for name, points in run.metrics.items():
        for point in points:
            steps.setdefault(point.step, {})[name] = float(point.value)
    at = _time(run.end_ms)
    db.executemany(
        "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics) VALUES (?, ?, ?, ?, ?)",
        [(run.id, at, run.name, step, json.dumps(found)) for step, found in sorted(steps.items())],
    )
    config = run.params | run.tags | {"_Username": run.user, "_Created": _time(run.start_ms)}
    text = json.dumps(config, ensure_ascii=False).encode("utf-8", "replace").decode()
    db.execute(
        "INSERT INTO configs (run_id, run_name, config, created_at) VALUES (?, ?, ?, ?)",
        (run.id, run.name, text, _time(run.start_ms)),
    )


def _finish(db: sqlite3.Connection, part: Path, path: Path) -> int:
    for sql in INDEXES:
        db.execute(sql)
    db.execute("COMMIT")
    db.close()
    same = path.exists() and path.read_bytes() == part.read_bytes()
    if same:
        part.unlink()
        return 0
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(part, path)
    return 1


def write(db: Db, folder: Path, newest: int | None = None) -> Written:
    """Write the experiments as trackio projects; arguments and errors as for :func:`explorer.mlflow_store.write`."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(detail=f"{folder} is a file; trackio's data is a directory. Give another with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, sqlite3.Connection] = {}
    done = Written()
    try:
        for run in every(db, newest):
            if run.project not in made:
                path = folder / f"{run.project}.db"
                if path.exists() and not _ours(path):
                    raise UsageError(
                        detail=f"{path} is not from an export and stays as it is. Give another -o."
                    )
                made[run.project] = _begin(folder / f"{run.project}.db.part")
            _add(made[run.project], run)
            done.runs += 1
        for project, file in made.items():
            done.files_changed += _finish(file, folder / f"{project}.db.part", folder / f"{project}.db")
            done.projects.add(project)
    finally:
        for project, file in made.items():
            file.close()
            (folder / f"{project}.db.part").unlink(missing_ok=True)
    return done
