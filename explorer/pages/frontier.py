"""``/frontier``: the best accepted result of each task and hardware class, side by side, never ranked together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.common import TaskBrief, filled, frame, loads, task_briefs
from explorer.values import Page, Who

SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The last frontier step of one task and hardware class."""

    task: TaskBrief
    hardware_class: str
    cid: str
    title: str
    author: Who
    metric: int
    runs: int
    gain: int | None  # over the step before
    sigmas_milli: int | None  # that gain in thousandths of the task's noise
    steps: int
    round: int
    age_rounds: int | None
    verdicts: int
    status: str
    fetch: str  # the command that brings it here
    changed: object  # [[field, before, after], …] of the recipe against its base


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPage(Page):
    """One row per task and hardware class."""

    name: ClassVar[str] = "frontier"
    rows: tuple[Best, ...]
    empty_classes: tuple[tuple[str, str], ...]  # (task, class) in which nothing is accepted yet


def _fetch(task: TaskBrief, hardware_class: str) -> str:
    """The command that fetches a row; a name that a shell could take for more than a word is not repeated."""
    name = task.name if SAFE.fullmatch(task.name) else task.cid
    given = f" --class {hardware_class}" if SAFE.fullmatch(hardware_class) else ""
    return f"borg frontier --task {name}{given} --fetch DIR"


def frontier(db: Db) -> FrontierPage:
    """Build the frontier page: the same answer as ``borg frontier``."""
    at = frame(db)
    rows: list[Best] = []
    empty: list[tuple[str, str]] = []
    for task in task_briefs(db):
        for found in db.all("classes", task=task.cid):
            last = db.one("frontier_last", **{"task": task.cid, "class": found["class"]})
            if last is None:
                empty.append((task.name, found["class"]))
                continue
            experiment = db.one("experiment", cid=last["cid"])
            gain = last["gain"]
            rows.append(
                filled(
                    Best,
                    last,
                    task=task,
                    title=last["title"] or "",
                    sigmas_milli=gain * 1000 // task.sigma if gain is not None and task.sigma else None,
                    steps=last["step"] + 1,
                    age_rounds=None if at.round is None else max(0, at.round - last["round"]),
                    fetch=_fetch(task, found["class"]),
                    changed=None if experiment is None else loads(experiment["changed"]),
                )
            )
    return FrontierPage(frame=at, rows=tuple(rows), empty_classes=tuple(empty))
