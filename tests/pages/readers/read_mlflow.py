"""Reads an exported store with MLflow itself and prints what it found as JSON: ``python read_mlflow.py DIR``."""

from __future__ import annotations

import json
import os
import sys

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

from mlflow.tracking import MlflowClient

client = MlflowClient(tracking_uri=sys.argv[1])
out = []
for experiment in client.search_experiments():
    page = None
    while True:
        runs = client.search_runs([experiment.experiment_id], max_results=1000, page_token=page)
        for run in runs:
            curve = client.get_metric_history(run.info.run_id, "train_loss") if len(out) < 20 else []
            out.append({
                "experiment": experiment.name, "id": run.info.run_id, "name": run.info.run_name,
                "status": run.info.status, "start_ms": run.info.start_time, "params": run.data.params,
                "metrics": run.data.metrics, "tags": run.data.tags,
                "curve": [[point.step, point.value] for point in curve],
            })  # fmt: skip
        page = runs.token
        if not page:
            break
json.dump(out, sys.stdout)
