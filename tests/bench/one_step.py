"""How far one training step differs between kinds of hardware, and how far a lie: ``python -m tests.bench.one_step``.

Trains the shipped task pico, and lets a worker without vector instructions and one with two threads measure
single steps of it (spec/41). Prints the largest relative error of honest steps and the smallest of lies, in
millionths, over the first, middle and last step of three segments.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import trio

from spore_borg.runner.client import Worker
from workspace import data, evaluate, tasks

SEGMENTS = (0, 5, 9)
LIES = {
    "lr × 0.95": ("lr", 95),
    "lr × 0.99": ("lr", 99),
    "wd × 0.9": ("wd", 90),
    "beta2 × 0.99": ("beta2", 99),
}
Job = dict[str, Any]


async def errors(
    author: Worker, jurors: list[Worker], job: Job, told: Job, paths: list[str | None]
) -> list[int]:
    """Relative errors that jurors measure by ``job`` on steps that an author trained by ``told``."""
    found = []
    for segment in SEGMENTS:
        where = {"segment": segment, "state_path": paths[segment]}
        steps = len((await author.call("trace", {**told, **where}))["digests"]) - 1
        picked = (1, steps // 2, steps)
        save = sorted({*picked, *(step - 1 for step in picked)})
        saved = dict((await author.call("trace", {**told, **where, "save": save}))["saved"])
        for step in picked:
            states = {"before_path": saved[step - 1], "after_path": saved[step]}
            for juror in jurors:
                answer = await juror.call(
                    "step_distance", {**job, "segment": segment, "step": step, **states}
                )
                found.append(int(answer["ppm"]))
    return found


async def measure(room: Path) -> None:
    """All optimizers, honest and not."""
    path = room / "data.safetensors"
    data.build(path)
    task = tasks.spec("pico")
    task["val_bytes"] = evaluate.val_bytes(task, data.load(path))
    os.environ.pop("ATEN_CPU_CAPABILITY", None)
    async with (
        Worker(device="cpu") as author,
        Worker(device="cpu", threads=2) as two,
        Worker(device="cpu") as plain,
    ):
        prints = {(await worker.call("hello"))["fingerprint"] for worker in (author, two)}
        os.environ["ATEN_CPU_CAPABILITY"] = "default"
        prints.add((await plain.call("hello"))["fingerprint"])
        print(f"{len(prints)} different fingerprints")
        for optimizer in ("adamw", "muon", "lion"):
            recipe = {**task["baseline"], "opt": optimizer}
            job: Job = {
                "task": task,
                "recipe": recipe,
                "seed": 7,
                "data_path": str(path),
                "out_dir": str(room / optimizer),
            }
            paths = (await author.call("train", job))["state_paths"]
            honest = await errors(author, [two, plain], job, job, paths)
            print(f"{optimizer:6} honest: at most {max(honest)} ppm of {len(honest)} steps")
            for name, (field, percent) in LIES.items():
                told = {**job, "recipe": {**recipe, field: recipe[field] * percent // 100}}
                lies = await errors(author, [plain], job, told, paths)
                print(f"{optimizer:6} {name}: {min(lies)} to {max(lies)} ppm")


def main() -> None:
    """Measure in a directory that is removed afterwards."""
    with tempfile.TemporaryDirectory() as room:
        trio.run(measure, Path(room))


if __name__ == "__main__":
    main()
