"""What it costs to check a run, against doing it again: one segment replayed (T2), two blocks evaluated (T1).

Task pico. CPU of the worker process, read from /proc before and after each request.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from spore_borg.runner.client import Worker
from tests.bench._rows import emit
from workspace.tasks import spec

RUNS = 3
BLOCKS = (3, 17)


def cpu_s(pid: int | None) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def timed(worker: Worker, op: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """An answer and its CPU seconds."""
    before = cpu_s(worker.pid)
    answer = await worker.call(op, params)
    return answer, cpu_s(worker.pid) - before


async def measure(room: Path) -> tuple[list[float], list[float], list[float]]:
    """CPU of whole runs; then, as shares of it, of every segment and of T1 probes."""
    runs: list[float] = []
    segments: list[float] = []
    probes: list[float] = []
    async with Worker(device="cpu") as worker:
        await worker.call("hello")
        data = await worker.call("dataset", {"out": str(room / "data.safetensors")})
        task = spec("pico", val_bytes=data["val_bytes"]["pico"])
        job = {"task": task, "recipe": task["baseline"], "seed": 7, "data_path": data["path"]}
        await worker.call("train", {**job, "out_dir": str(room / "warm")})
        for number in range(RUNS):
            done, spent = await timed(worker, "train", {**job, "out_dir": str(room / str(number))})
            runs.append(spent)
        whole = sum(runs) / RUNS
        for segment, state in enumerate(done["state_paths"]):
            ask = {**job, "segment": segment, "inner_step": 1} | ({"state_path": state} if state else {})
            again, spent = await timed(worker, "replay", ask)
            assert (again["start"], again["end"]) == (done["digests"][segment], done["digests"][segment + 1])
            segments.append(spent / whole)
        for _ in range(RUNS):
            ask = {**job, "weights_path": done["weights_path"], "blocks": list(BLOCKS)}
            _, spent = await timed(worker, "evaluate", ask)
            probes.append(spent / whole)
    return runs, segments, probes


def main() -> None:
    """One worker, one thread."""
    with tempfile.TemporaryDirectory() as directory:
        runs, segments, probes = trio.run(measure, Path(directory))
    emit("run_cpu", runs, "30 GFLOP, one thread")
    emit("replay_segment", segments, f"{len(segments)} segments, each once")
    emit("replay_probe", probes, "clock ticks of 10 ms")


if __name__ == "__main__":
    main()
