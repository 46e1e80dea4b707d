"""``/``: the frontier of one task and hardware class, how it moved, what waits, what is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.common import (
    LAST,
    TEXT_MAX,
    Running,
    TaskBrief,
    choose_task,
    frame,
    live_values,
    rows_of,
    running,
    task_briefs,
)
from explorer.pages.plot import Plot, Step, axis_of, plot, steps_of, window
from explorer.pages.state import CONFIRMED, SOLO, Shard, shard
from explorer.values import Page, RecordRow
from spore_borg.errors import NotFound

NEWEST = 12  # records listed
ABSORBED = 8  # absorbed models listed
SCAN = 1_000  # records among which those are sought that are no seals
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTab:
    """One hardware class of the task with its best accepted value, if it has one."""

    name: str
    best: int | None
    status: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewPage(Page):
    """The first page."""

    name: ClassVar[str] = "overview"
    live: ClassVar[tuple[str, ...]] = ("view", "live")
    tasks: tuple[TaskBrief, ...]
    task: TaskBrief | None
    classes: tuple[ClassTab, ...]
    hardware_class: str | None
    axis: str
    plot: Plot | None
    best: int | None
    best_cid: str | None
    best_status: str | None
    change: int | None  # gain of the best since a day ago, or since its first step if that is younger
    change_since: str  # "day" or "first"
    running: Running | None
    newest: tuple[RecordRow, ...]
    absorbed: tuple[Shard, ...]  # the newest absorbed models
    members: dict[str, int]  # absorbed models in the state, by what they take
    members_confirmed: bool  # false: they rest on one node's word


def class_tabs(db: Db, task: TaskBrief) -> tuple[ClassTab, ...]:
    """Every hardware class in which somebody ran the task, with its best."""
    tabs = []
    for row in db.all("classes", task=task.cid):
        last = db.one("frontier_last", **{"task": task.cid, "class": row["class"]})
        best, status = (None, None) if last is None else (last["metric"], last["status"])
        tabs.append(ClassTab(name=row["class"], best=best, status=status))
    return tuple(tabs)


def _change(steps: list[Step], since: int | None, lower: bool) -> tuple[int | None, str]:
    """How much better the best is than after round ``since``; without one, than the first step."""
    old = [s for s in steps if since is not None and s.round <= since]
    word = "day" if old else "first"
    if len(steps) < 2 and not old:
        return None, word
    change = (old[-1] if old else steps[0]).metric - steps[-1].metric
    return change if lower else -change, word


def overview(
    db: Db,
    *,
    task: str | None = None,
    hardware_class: str | None = None,
    x: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> OverviewPage:
    """Build the overview.

    Args:
        task: name or id; None takes what runs now, else the first.
        hardware_class: None takes the class with the most recent frontier step, else the first.
        x: ``experiment``, ``time`` or ``cost``. since, until: part of that axis to show.
    Raises:
        NotFound: no such task or class. UsageError: no such axis, or no such part of it.
    """
    axis, part = axis_of(x), window(since, until)
    at = frame(db)
    run = running(live_values(db))
    briefs = task_briefs(db)
    chosen = choose_task(briefs, task, run)
    tabs = class_tabs(db, chosen) if chosen else ()
    if hardware_class and hardware_class not in {tab.name for tab in tabs}:
        hint = "The overview shows the classes in which somebody ran this task."
        raise NotFound(what="hardware class", name=hardware_class[:TEXT_MAX], hint=hint)
    if hardware_class is None and tabs:
        hardware_class = next((tab.name for tab in tabs if tab.best is not None), tabs[0].name)
    drawn = plot(db, chosen, hardware_class, axis, at.version, part) if chosen and hardware_class else None
    steps = steps_of(db, chosen.cid, hardware_class) if drawn and chosen and hardware_class else []
    last = steps[-1] if steps else None  # of the whole axis, whatever part of it is drawn
    lower = chosen is None or not chosen.direction.startswith(("max", "higher"))
    seqs = [row["seq"] for row in db.all("window_experiments", before=LAST, window=NEWEST)]
    if not seqs:
        seqs = [row["seq"] for row in db.all("window_telling", scan=SCAN, window=NEWEST)]
    confirmed = db.all("shard_count", member=CONFIRMED)
    day_ago = at.round - DAY_MS // at.epoch_ms if at.round is not None and at.epoch_ms else None
    change, word = _change(steps, day_ago, lower) if last else (None, "first")
    return OverviewPage(
        frame=at,
        tasks=briefs,
        task=chosen,
        classes=tabs,
        hardware_class=hardware_class,
        axis=axis,
        plot=drawn,
        best=last.metric if last else None,
        best_cid=last.cid if last else None,
        best_status=last.status if last else None,
        change=change,
        change_since=word,
        running=run,
        newest=rows_of(db, seqs, NEWEST),
        absorbed=tuple(shard(row) for row in db.all("shards", before=LAST, limit=ABSORBED)),
        members={row["modality"]: row["n"] for row in confirmed or db.all("shard_count", member=SOLO)},
        members_confirmed=bool(confirmed),
    )
