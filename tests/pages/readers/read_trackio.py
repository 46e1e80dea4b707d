"""Reads the projects in TRACKIO_DIR with trackio's own reader and prints them as JSON."""

from __future__ import annotations

import json
import sys

from trackio.sqlite_storage import SQLiteStorage

out = []
for project in sorted(SQLiteStorage.get_projects()):
    for run in SQLiteStorage.get_run_records(project):
        if len(out) >= 60:
            break
        logs = SQLiteStorage.get_logs(project, run["name"], run_id=run["id"])
        config = SQLiteStorage.get_run_config(project, run["name"], run_id=run["id"])
        out.append({"project": project, "id": run["id"], "name": run["name"], "logs": logs, "config": config})
json.dump(out, sys.stdout)
