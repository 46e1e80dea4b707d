"""``/records``: what arrived, newest first, by kind, author, task, outcome, verdict, or words in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import LAST, TEXT_MAX, TaskBrief, before_of, frame, rows_of, task_briefs
from explorer.values import Page, RecordRow
from spore_borg.errors import UsageError
from spore_borg.records import bodies
from spore_borg.store.tables import search_query

PAGE_ROWS = 50
SCAN_MAX = 1_000  # records looked at for one page when several filters apply together
KINDS = ("experiment", *(kind for kind in sorted(bodies.KINDS) if kind != "experiment"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """What is asked for."""

    kind: str  # a kind, or "all"
    author: str | None
    task: str | None
    hardware_class: str | None
    verdict: str | None
    outcome: str | None
    q: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsPage(Page):
    """One page of records. ``before`` is the key of the next, older page; None at the end."""

    name: ClassVar[str] = "records"
    facets: Facets
    tasks: tuple[TaskBrief, ...]
    kinds: tuple[str, ...]
    rows: tuple[RecordRow, ...]
    before: int | None
    first: bool  # nothing newer was left out
    scanned: int  # records looked at for this page
    hit: str | None  # the search text is itself the id of a record or node: its address


def _one_of(value: str | None, allowed: tuple[str, ...], name: str) -> str | None:
    if value and value not in allowed:
        raise UsageError(detail=f"?{name}= must be one of {', '.join(allowed)}.")
    return value or None


def _window(db: Db, facets: Facets, before: int, limit: int) -> tuple[list[int], int]:
    """The numbers of the records to look at, by the most selective index, and how many were asked for."""
    experiments = facets.kind == "experiment"
    given = [facets.author, facets.verdict, facets.outcome, facets.task or facets.hardware_class]
    extra = sum(1 for value in given if value)
    params: dict[str, object] = {}
    if facets.q:
        name, params = "window_search", {"q": search_query(facets.q)}
    elif facets.author:
        name, params = (
            ("window_author" if experiments else "window_records_author"),
            {"author": facets.author},
        )
        extra += not experiments and facets.kind != "all"
    elif not experiments:
        name, params = (
            ("window_records", {}) if facets.kind == "all" else ("window_records_kind", {"kind": facets.kind})
        )
        extra += 1 if extra else 0
    elif facets.verdict:
        name, params = "window_verdict", {"verdict": facets.verdict}
    elif facets.outcome:
        name, params = "window_outcome", {"outcome": facets.outcome}
    elif facets.task and facets.hardware_class:
        name, params = "window_task", {"task": facets.task, "class": facets.hardware_class}
    else:
        name = "window_experiments"
        extra += 1 if extra else 0
    filtered = extra > (0 if facets.q else 1)
    window = max(SCAN_MAX, limit) if filtered else limit + 1
    if facets.q and not params["q"]:
        return [], window
    return [row["seq"] for row in db.all(name, before=before, window=window, **params)], window


def _hit(db: Db, text: str | None) -> str | None:
    """Where a pasted id leads."""
    if not text:
        return None
    if show.is_cid(text) and db.one("record", cid=text) is not None:
        return f"/record/{text}"
    if show.is_node(text) and db.one("node", name=text) is not None:
        return f"/node/{text}"
    return None


def _task_id(tasks: tuple[TaskBrief, ...], wanted: str | None) -> str | None:
    """A task's id from its name or id; an unknown one matches nothing."""
    if not wanted:
        return None
    return next((task.cid for task in tasks if wanted in {task.name, task.cid}), wanted)


def facets_of(db: Db, **asked: str | None) -> Facets:
    """What is asked for, checked.

    Raises:
        UsageError: a value that no record can have.
    """
    author = asked.get("author") or None
    if author and not show.is_node(author):
        raise UsageError(detail="?author= must be a node's name, as in the address of its page.")
    return Facets(
        kind=_one_of(asked.get("kind"), (*KINDS, "all"), "kind") or "experiment",
        author=author,
        task=_task_id(task_briefs(db), asked.get("task")),
        hardware_class=(asked.get("class") or "")[:TEXT_MAX] or None,
        verdict=_one_of(asked.get("verdict"), show.VERDICTS, "verdict"),
        outcome=_one_of(asked.get("outcome"), show.OUTCOMES, "outcome"),
        q=" ".join((asked.get("q") or "").replace("\0", " ").split())[:TEXT_MAX] or None,
    )


def page_of(db: Db, facets: Facets, before: int, limit: int) -> tuple[tuple[RecordRow, ...], int | None, int]:
    """``(rows, key of the next page, records looked at)``: at most ``limit`` rows, newest first."""
    seqs, window = _window(db, facets, before, limit)
    rows = rows_of(
        db,
        seqs,
        limit + 1,
        kind=None if facets.kind == "all" else facets.kind,
        author=facets.author,
        task=facets.task,
        verdict=facets.verdict,
        outcome=facets.outcome,
        **{"class": facets.hardware_class},
    )
    older: int | None = None
    if len(rows) > limit:
        rows = rows[:limit]
        older = rows[-1].seq
    elif len(seqs) == window:
        older = min(seqs)
    return rows, older, len(seqs)


def records(db: Db, **asked: str | None) -> RecordsPage:
    """Build one page of records.

    Args:
        asked: ``kind author task class verdict outcome q before``, all optional texts.
    Raises:
        UsageError: a value that no record can have.
    """
    facets = facets_of(db, **asked)
    before = before_of(asked.get("before"))
    rows, older, scanned = page_of(db, facets, before, PAGE_ROWS)
    return RecordsPage(
        frame=frame(db),
        facets=facets,
        tasks=task_briefs(db),
        kinds=KINDS,
        rows=rows,
        before=older,
        first=before == LAST,
        scanned=scanned,
        hit=_hit(db, facets.q),
    )
