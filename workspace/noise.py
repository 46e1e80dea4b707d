"""Measure the noise of a task: the baseline, or a recipe near it, over several seeds.

``python -m workspace.noise nano --seeds 6 --set lr=0.005`` prints one line per seed, then mean and standard
deviation in nano-bits per byte. The ``sigma`` of the shipped tasks comes from here.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path

from workspace import harness, recipe, tasks


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when every seed finished, 1 when one crashed."""
    parser = argparse.ArgumentParser(
        prog="python -m workspace.noise", description="Noise of a task over seeds."
    )
    parser.add_argument("task", choices=tasks.NAMES)
    parser.add_argument("--seeds", type=int, default=6, help="how many seeds (default 6)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change the baseline"
    )
    parser.add_argument("--data", type=Path, help="a dataset file (default: build the default corpus)")
    chosen = parser.parse_args(arguments)

    import torch

    from workspace import data

    torch.set_num_threads(1)
    task = tasks.spec(chosen.task)
    changed = dict(task["baseline"])
    for item in chosen.set:
        name, _, value = item.partition("=")
        changed[name] = recipe.parse(name, value)
    metrics: list[int] = []
    with tempfile.TemporaryDirectory() as room:
        path = chosen.data or Path(room, "data.safetensors")
        if chosen.data is None:
            data.build(path)
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            run = harness.train(task, changed, seed, path, Path(room, "run"))
            shown = run["metric"] if run["status"] == "done" else run["error"]
            print(f"seed {seed}: {shown} steps {run['steps']} cpu_ms {run['cpu_ms']}", flush=True)
            if run["status"] != "done":
                return 1
            metrics.append(run["metric"])
    sd = round(statistics.stdev(metrics)) if len(metrics) > 1 else 0
    name, mean = " ".join(chosen.set) or "baseline", round(statistics.mean(metrics))
    low, high = interval(sd, len(metrics))
    print(f"{chosen.task} {name}: mean {mean} sd {sd} (95 %: {low} to {high}) n {len(metrics)}")
    return 0


def interval(sd: int, count: int) -> tuple[int, int]:
    """95 % confidence interval of a standard deviation over ``count`` seeds, for normal noise (chi-square)."""
    from scipy.stats import chi2  # a second of import that only this command needs

    if count < 2:
        return sd, sd
    free = count - 1
    low, high = (math.sqrt(free / chi2.ppf(share, free)) for share in (0.975, 0.025))
    return round(sd * low), round(sd * high)


if __name__ == "__main__":
    sys.exit(main())
