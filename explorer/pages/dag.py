"""``/dag``: what builds on what, as a graph beside a table: around one record, along the frontier, or all of it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer import lanes as graph
from explorer import show
from explorer.db import Db
from explorer.lanes import Cell
from explorer.pages.common import (
    LAST,
    TaskBrief,
    before_of,
    choose_class,
    choose_task,
    filled,
    frame,
    task_briefs,
)
from explorer.values import Page, Who
from spore_borg.errors import NotFound, UsageError

VIEWS = ("lineage", "spine", "lanes")
PAGE_ROWS = 100
HOPS = 4  # of descent shown around a record, up and down
CHILDREN_MAX = 12  # newest experiments shown on each record of a lineage, besides those of the frontier
FOLDED_MAX = 100  # of folded branches, counted no further
SPINE_ANCESTORS_MAX = 260


@dataclass(frozen=True, slots=True, kw_only=True)
class DagRow:
    """One experiment with its place in the graph."""

    seq: int
    cid: str
    title: str
    changed: tuple[object, ...]
    author: Who
    epoch: int
    task: str
    hardware_class: str
    metric: int | None
    gain: int | None
    outcome: str
    verdict: str
    frontier: int
    operator: str
    base: str | None
    base2: str | None
    hops: int | None  # lineage: 0 the record itself, negative its ancestors, positive what builds on it
    folded: int | None  # experiments built on it that this view leaves out; at most FOLDED_MAX are counted
    cell: Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class DagPage(Page):
    """One view of the graph of experiments. ``before`` is the key of the next, older page; None at the end."""

    name: ClassVar[str] = "dag"
    view: str
    tasks: tuple[TaskBrief, ...]
    task: TaskBrief | None  # of the spine
    hardware_class: str | None
    classes: tuple[str, ...]
    cid: str | None  # of the lineage
    rows: tuple[DagRow, ...]
    columns: int
    before: int | None
    first: bool
    folded_max: int


def _rows(
    found: list[sqlite3.Row],
    awaited: list[str],
    hops: dict[str, int] | None = None,
    folded: dict[str, int] | None = None,
) -> tuple[DagRow, ...]:
    """Rows, newest first, with their cells."""
    ordered = sorted(found, key=lambda row: -row["seq"])
    bases = [(row["cid"], [b for b in (row["base"], row["base2"]) if b]) for row in ordered]
    cells = graph.lanes(bases, awaited)
    return tuple(
        filled(
            DagRow,
            row,
            hops=None if hops is None else hops.get(row["cid"]),
            folded=None if folded is None else folded.get(row["cid"], 0),
            cell=cell,
        )
        for row, cell in zip(ordered, cells, strict=True)
    )


def _by_cid(db: Db, cids: list[str]) -> list[sqlite3.Row]:
    return db.all("dag_cids", cids=json.dumps(cids))


def lanes_rows(db: Db, before: int, limit: int) -> tuple[tuple[DagRow, ...], int | None]:
    """One page of all experiments, newest first, and the key of the next."""
    found = db.all("window_experiments", before=before, window=limit + 1)
    seqs = [row["seq"] for row in found[:limit]]
    rows = db.all("dag_seqs", seqs=json.dumps(seqs)) if seqs else []
    awaited: list[str] = []
    if before != LAST and rows:
        cids = json.dumps([row["cid"] for row in rows])
        awaited = [row["cid"] for row in db.all("awaited", cids=cids, before=before)]
    return _rows(rows, awaited), seqs[-1] if len(found) > limit else None


def _ancestors(db: Db, cid: str, hops: dict[str, int]) -> None:
    """Add the bases of a record, and theirs, to ``hops``."""
    level = [cid]
    for hop in range(1, HOPS + 1):
        rows = _by_cid(db, level)
        level = [b for row in rows for b in (row["base"], row["base2"]) if b and b not in hops]
        for base in level:
            hops[base] = -hop


def _descendants(db: Db, cid: str, steps: list[tuple[str, str | None]], hops: dict[str, int]) -> None:
    """Add what builds on a record: its part of the frontier, and the newest few at each step."""
    level = [cid]
    for hop in range(1, HOPS + 1):
        following: list[str] = []
        for parent in level:
            children = [step for step, base in steps if base == parent]
            if len(hops) < PAGE_ROWS:
                newest = db.all("children_newest", cid=parent, limit=CHILDREN_MAX if hop == 1 else 3)
                children += [row["cid"] for row in newest]
            for child in children:
                if child not in hops and len(hops) < PAGE_ROWS + HOPS:
                    hops[child] = hop
                    following.append(child)
        level = following


def _folded(db: Db, cids: list[str]) -> dict[str, int]:
    """How many experiments build on each record, besides those that are in the list themselves."""
    counted = db.all("children_counts", cids=json.dumps(cids), limit=FOLDED_MAX)
    total = {row["cid"]: row["n"] for row in counted}
    for row in _by_cid(db, cids):
        if row["base"] in total and total[row["base"]] < FOLDED_MAX:
            total[row["base"]] -= 1
    return total


def _lineage(db: Db, cid: str) -> tuple[DagRow, ...]:
    """An experiment with what it comes from and what builds on it."""
    row = db.one("experiment", cid=cid)
    if row is None:
        known = db.one("record", cid=cid)
        hint = "Only experiments have a lineage." if known else "This node does not hold it."
        raise NotFound(what="experiment", name=cid, hint=hint)
    hops = {cid: 0}
    _ancestors(db, cid, hops)
    steps = db.all("frontier_bases", **{"task": row["task"], "class": row["class"]})
    _descendants(db, cid, [(step["cid"], step["base"]) for step in steps], hops)
    found = _by_cid(db, list(hops))
    return _rows(found, [], hops, _folded(db, [r["cid"] for r in found]))


def _newest(db: Db) -> str | None:
    """The newest experiment, if there is one."""
    found = lanes_rows(db, LAST, 1)[0]
    return found[0].cid if found else None


def _spine(db: Db, task: str, hardware_class: str, before: int) -> tuple[tuple[DagRow, ...], int | None]:
    """The frontier's steps and the bases between them; everything else is folded into a number."""
    steps = db.all("frontier_bases", **{"task": task, "class": hardware_class})
    seqs = {step["cid"]: step["seq"] for step in steps}
    if steps:
        last = steps[-1]["cid"]
        seqs |= {r["cid"]: r["seq"] for r in db.all("lineage", cid=last, limit=SPINE_ANCESTORS_MAX)}
    ordered = sorted((cid for cid in seqs if seqs[cid] < before), key=lambda cid: -seqs[cid])
    chosen = ordered[:PAGE_ROWS]
    found = _by_cid(db, chosen) if chosen else []
    awaited = []
    if before != LAST and chosen:
        newer = _by_cid(db, [cid for cid in seqs if seqs[cid] >= before])
        bases = {base for row in newer for base in (row["base"], row["base2"])}
        awaited = [cid for cid in chosen if cid in bases]
    folded = _folded(db, chosen) if chosen else {}
    return _rows(found, awaited, None, folded), seqs[chosen[-1]] if len(ordered) > PAGE_ROWS else None


def dag(
    db: Db,
    *,
    view: str | None = None,
    cid: str | None = None,
    task: str | None = None,
    hardware_class: str | None = None,
    before: str | None = None,
) -> DagPage:
    """Build one view of the graph of experiments; an edge leads to what an experiment builds on.

    Args:
        view: ``lanes`` (all, newest first), ``spine`` (the frontier's path) or ``lineage`` (around ``cid``).
        cid: of the lineage; None takes the best of the first task. task, hardware_class: of the spine.
        before: key of the page.
    Raises:
        UsageError: no such view, or an id of the wrong form. NotFound: no such experiment, task or class.
    """
    view = view or ("lineage" if cid else "lanes")
    if view not in VIEWS:
        raise UsageError(detail=f"?view= must be one of {', '.join(VIEWS)}.")
    if cid and not show.is_cid(cid):
        raise UsageError(detail="?cid= must be the whole id of an experiment.")
    key = before_of(before)
    at = frame(db)
    briefs = task_briefs(db)
    chosen = choose_task(briefs, task, None)
    classes, hardware_class, best = choose_class(db, chosen, hardware_class)
    rows: tuple[DagRow, ...] = ()
    older: int | None = None
    if view == "lanes":
        rows, older = lanes_rows(db, key, PAGE_ROWS)
    elif view == "spine" and chosen and hardware_class:
        rows, older = _spine(db, chosen.cid, hardware_class, key)
    elif view == "lineage":
        cid = cid or best or _newest(db)
        rows = _lineage(db, cid) if cid else ()
    return DagPage(
        frame=at,
        view=view,
        tasks=briefs,
        task=chosen,
        hardware_class=hardware_class,
        classes=classes,
        cid=cid if view == "lineage" else None,
        rows=rows,
        columns=graph.width(row.cell for row in rows),
        before=older,
        first=key == LAST,
        folded_max=FOLDED_MAX,
    )
