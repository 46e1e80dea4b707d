"""``/tasks``: the definition of each task: what is measured, by what, within what budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.common import TaskBrief, filled, frame, loads_dict, task_brief
from explorer.pages.overview import ClassTab, class_tabs
from explorer.values import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFull:
    """One task."""

    brief: TaskBrief
    budget_flops: int
    segments: int
    blocks: int
    val_bytes: int
    data: str
    corpus: str  # what its author calls the data; empty where nothing is said
    licence: str  # of the data, as its author states it
    evaluator: str
    author: str
    classes: tuple[ClassTab, ...]
    probes: tuple[str, ...]  # of a task of absorption: what the gate asks
    body: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksPage(Page):
    """All tasks."""

    name: ClassVar[str] = "tasks"
    tasks: tuple[TaskFull, ...]


def _said(body: dict[str, object], name: str) -> str:
    """A text among a task's own settings; empty if there is none."""
    spec = body.get("spec")
    said = spec.get(name) if isinstance(spec, dict) else None
    return said if isinstance(said, str) else ""


def tasks(db: Db) -> TasksPage:
    """Build the page of tasks."""
    out = []
    for row in db.all("tasks"):
        brief = task_brief(row)
        body = loads_dict(row["body"])
        probes = tuple(name for name in _said(body, "probes").split(",") if name)
        corpus, licence = _said(body, "corpus"), _said(body, "licence")
        classes = class_tabs(db, brief)
        out.append(
            filled(
                TaskFull,
                row,
                brief=brief,
                classes=classes,
                probes=probes,
                body=body,
                corpus=corpus,
                licence=licence,
            )
        )
    return TasksPage(frame=frame(db), tasks=tuple(sorted(out, key=lambda t: t.brief.name)))
