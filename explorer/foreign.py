"""Experiments as the runs of other tools: parameters, metrics over steps, tags.

Here, and nowhere else, a metric becomes a number of the task's unit (bits per byte, say) rather than a whole number of
nano-units; it is written as an exact decimal. Names come from strangers' records: they become file names and keys only
after :func:`key`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from explorer import show
from explorer.db import Db
from explorer.export_rows import Run, runs
from explorer.pages.body import signed
from explorer.pages.common import TaskBrief, frame, task_briefs
from spore_borg.records.cid import Cid

PIECE_RUNS = 500
KEY_CHARS = 100
TEXT_CHARS = 5_000  # of a tag or parameter: other tools refuse longer ones
_NOT_A_KEY = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of a metric: an exact decimal of its unit, at a training step."""

    step: int
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRun:
    """One experiment as another tool's run."""

    id: str  # 32 hex digits: the beginning of the record's digest
    name: str
    project: str  # a task, as a key
    user: str
    failed: bool
    start_ms: int  # from the epoch of the record and the mesh's clock
    end_ms: int
    params: dict[str, str]
    metrics: dict[str, tuple[Point, ...]]
    tags: dict[str, str]


def key(text: str, taken: dict[str, str]) -> str:
    """A stranger's name as one that is safe as a file name and a key, and not yet among ``taken``."""
    base = _NOT_A_KEY.sub("_", show.plain(text, KEY_CHARS)).strip("._-")[:KEY_CHARS] or "unnamed"
    found, number = base, 2
    while found.lower() in taken:  # some file systems do not tell case apart
        found, number = f"{base}-{number}", number + 1
    taken[found.lower()] = text
    return found


def decimal(value: int, digits: int) -> str:
    """An integer of 10^-digits as an exact decimal: ``decimal(2271543210, 9)`` is 2.27154321."""
    sign, value = ("-" if value < 0 else ""), abs(value)
    whole, part = divmod(value, 10**digits)
    return f"{sign}{whole}.{part:0{digits}d}".rstrip("0").rstrip(".")


def clock(db: Db) -> tuple[int, int]:
    """``(ms since 1970 at epoch 0, ms of an epoch)`` of the mesh; zeros if its first record is not here."""
    at = frame(db)
    opened = signed(db, at.mesh) if show.is_cid(at.mesh) else None
    record = opened.decoded if opened is not None else None
    body = record.get("body") if isinstance(record, dict) else None
    said = body if isinstance(body, dict) else {}
    start, length = said.get("time_ms"), at.epoch_ms or said.get("epoch_ms")
    return (start if isinstance(start, int) else 0), (length if isinstance(length, int) else 0)


def projects(tasks: tuple[TaskBrief, ...]) -> dict[str, str]:
    """Task id → project name: the task's name and the end of its id, as two tasks may have one name."""
    taken: dict[str, str] = {}
    return {task.cid: key(f"{task.name}-{task.cid[-6:]}".replace(".", "_"), taken) for task in tasks}


def _metrics(run: Run, task: TaskBrief | None) -> dict[str, tuple[Point, ...]]:
    last = max(0, run.steps)
    gaps = max(1, len(run.curve) - 1)
    out = {
        "train_loss": tuple(
            Point(step=last * at // gaps, value=decimal(value, 6)) for at, value in enumerate(run.curve)
        )
    }
    taken = {name: "" for name in ("train_loss", "gain", "flops", "cpu_ms", "params_count")}
    name = key(task.metric if task else "metric", taken)
    for metric, value in ((name, run.metric), ("gain", run.gain)):
        if value is not None:
            out[metric] = (Point(step=last, value=decimal(value, 9)),)
    for metric, whole in (("flops", run.flops), ("cpu_ms", run.cpu_ms), ("params_count", run.params_count)):
        out[metric] = (Point(step=last, value=str(whole)),)
    return {metric: points for metric, points in out.items() if points}


def _tags(run: Run, task: TaskBrief | None) -> dict[str, str]:
    said = {
        "cid": run.cid,
        "task": run.task,
        "unit": task.unit.removeprefix("nano-") if task else "",
        "hardware_class": run.hardware_class,
        "author": run.author.name,
        "epoch": str(run.epoch),
        "base": run.base,
        "base2": run.base2,
        "operator": run.operator,
        "why": run.why,
        "outcome": run.outcome,
        "verdict": run.verdict,
        "stage": run.stage,
        "settled": "yes" if run.settled else "no",
        "frontier": {1: "best", 2: "was best"}.get(run.frontier, "no"),
        "reason": run.reason,
        "seed": run.seed,
        "weights": run.weights,
        "fingerprint": run.fingerprint,
        "error": run.error,
    }
    return {f"borg.{name}": show.plain(text, TEXT_CHARS) for name, text in said.items() if text}


def foreign(run: Run, task: TaskBrief | None, project: str, start_ms: int) -> ForeignRun:
    """One experiment as a run."""
    taken: dict[str, str] = {}
    author = show.plain(run.author.display, 24)
    return ForeignRun(
        id=Cid.parse(run.cid).digest.hex()[:32],
        name=f"{show.plain(show.changed(run.changed) or run.title, 60) or 'baseline'} {run.cid[-6:]}",
        project=project,
        user=f"{author} {run.author.name[:8]}".strip(),
        failed=run.outcome == "crashed",
        start_ms=start_ms,
        end_ms=start_ms + max(0, run.cpu_ms),
        params={key(name, taken): _param(value) for name, value in run.recipe.items()},
        metrics=_metrics(run, task),
        tags=_tags(run, task),
    )


def _param(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return show.plain(text, TEXT_CHARS) or '""'


def every(db: Db, newest: int | None = None) -> Iterator[ForeignRun]:
    """The experiments, newest first; at most ``newest`` of them."""
    tasks = {task.cid: task for task in task_briefs(db)}
    names = projects(tuple(tasks.values()))
    began_ms, epoch_ms = clock(db)
    at: str | None = None
    given = 0
    while True:
        found, at = runs(db, at, PIECE_RUNS)
        for run in found:
            if newest is not None and given >= newest:
                return
            given += 1
            start_ms = began_ms + run.epoch * epoch_ms
            yield foreign(run, tasks.get(run.task), names.get(run.task, "unknown-task"), start_ms)
        if at is None:
            return
