"""``/failures`` and ``/failure/{signature}``: what crashed runs have in common, and what fixed it.

A signature stands for every crashed run whose error says the same (:mod:`spore_borg.views.failures`).
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import LAST, before_of, filled, frame, loads_list, rows_of, task_briefs
from explorer.values import Page, RecordRow
from spore_borg.errors import NotFound, UsageError

ROWS = 30  # signatures a page
RUNS = 50  # runs a page
FOUND_MAX = 200  # signatures that a search shows
MATCHES_MAX = 1_000  # signatures that one word may find
WORDS_MAX = 8
SORTS = ("recent", "most")
_WORD = re.compile(r"\w{1,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedField:
    """A recipe field that the runs have in common: how many changed it, and to what."""

    field: str
    changed: int  # runs that changed it against their base; 0: they share a value that is not the baseline's
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One signature."""

    signature: str
    text: str  # without numbers, addresses and paths
    example: str  # the newest run's own words
    runs: int
    authors: int
    classes: tuple[tuple[str, int], ...]  # hardware class, runs
    tasks: tuple[str, ...]  # their names
    fields: tuple[FailedField, ...]
    flops: int  # spent on these runs
    first_epoch: int
    last_epoch: int
    last_cid: str
    fixed_by: str | None  # the run that last fixed one of them
    fixed_runs: int  # runs for which there is a fix


@dataclass(frozen=True, slots=True, kw_only=True)
class FailuresPage(Page):
    """Signatures. ``next`` is the key of the next page: ``before`` or ``after``, as the order asks."""

    name: ClassVar[str] = "failures"
    q: str
    sort: str
    rows: tuple[Failure, ...]
    total: int  # signatures of the mesh
    next: str | None
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """One crashed run, and the run that fixed it."""

    run: RecordRow
    fixed_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePage(Page):
    """One signature with its runs, newest first."""

    name: ClassVar[str] = "failure"
    failure: Failure
    runs: tuple[FailedRun, ...]
    before: int | None
    first: bool


def _pairs(text: str) -> tuple[tuple[str, int], ...]:
    found = [item for item in loads_list(text) if isinstance(item, list) and len(item) == 2]
    return tuple((str(name), n) for name, n in found if isinstance(n, int))


def _fields(text: str) -> tuple[FailedField, ...]:
    out = []
    for item in loads_list(text):
        if isinstance(item, list) and len(item) == 3 and isinstance(item[1], int):
            values = item[2] if isinstance(item[2], list) else [item[2]]
            out.append(FailedField(field=str(item[0]), changed=item[1], values=tuple(values)))
    return tuple(out)


def _failure(row: sqlite3.Row, names: dict[str, str]) -> Failure:
    tasks = (names[cid] for cid in loads_list(row["tasks"]) if isinstance(cid, str) and cid in names)
    return filled(
        Failure, row, classes=_pairs(row["classes"]), tasks=tuple(tasks), fields=_fields(row["fields"])
    )


def _found(db: Db, q: str) -> list[sqlite3.Row]:
    """Signatures that have every word; the last word may be the beginning of one."""
    words = _WORD.findall(q.lower())[:WORDS_MAX]
    hits: set[str] | None = None
    for number, word in enumerate(words):
        high = word + "\U0010ffff" if number == len(words) - 1 else word + "\0"
        rows = db.all("failure_words", low=word, high=high, limit=MATCHES_MAX)
        named = {row["signature"] for row in rows}
        hits = named if hits is None else hits & named
    if len(words) == 1 and show.is_signature(words[0]):
        hits = (hits or set()) | {words[0]}
    chosen = sorted(hits or ())[:FOUND_MAX]
    return db.all("failures_named", signatures=json.dumps(chosen)) if chosen else []


def _after(text: str | None) -> tuple[int, str]:
    """``(runs, signature)`` of a key ``RUNS.SIGNATURE``; before all others without one."""
    runs, _, signature = (text or f"{LAST}.").partition(".")
    if text and not (runs.isascii() and runs.isdigit() and len(runs) < 19 and show.is_signature(signature)):
        raise UsageError(
            detail="?after= must be RUNS.SIGNATURE, as the link at the end of the list gives it."
        )
    return int(runs), signature


def failures(
    db: Db,
    *,
    q: str | None = None,
    sort: str | None = None,
    before: str | None = None,
    after: str | None = None,
) -> FailuresPage:
    """Build the list of signatures.

    Args:
        q: words of the error, of its recipe fields or hardware classes; all must be there.
        sort: ``recent`` (default) or ``most``. before, after: keys of the next page in that order.
    Raises:
        UsageError: no such order, or a key that no page gives.
    """
    order = sort or "recent"
    if order not in SORTS:
        raise UsageError(detail=f"?sort= must be one of {', '.join(SORTS)}.")
    words = show.plain(q, 200) if _WORD.search(q or "") else ""
    key, (runs, signature) = before_of(before), _after(after)
    if words:
        by_runs = order == "most"
        rows = sorted(_found(db, words), key=lambda r: -r["runs"] if by_runs else -r["last_seq"])
        shown, following = rows, None
    elif order == "most":
        rows = db.all("failures_most", runs=runs, signature=signature, limit=ROWS + 1)
        shown = rows[:ROWS]
        following = f"{shown[-1]['runs']}.{shown[-1]['signature']}" if len(rows) > ROWS else None
    else:
        rows = db.all("failures_recent", before=key, limit=ROWS + 1)
        shown = rows[:ROWS]
        following = str(shown[-1]["last_seq"]) if len(rows) > ROWS else None
    names = {task.cid: task.name for task in task_briefs(db)}
    return FailuresPage(
        frame=frame(db),
        q=words,
        sort=order,
        rows=tuple(_failure(row, names) for row in shown),
        total=db.all("failure_count")[0]["n"],
        next=following,
        first=not before and not after,
    )


def failure(db: Db, signature: str, *, before: str | None = None) -> FailurePage:
    """Build the page of one signature.

    Args:
        signature: its 12 hex digits. before: key of the next page of runs.
    Raises:
        NotFound: no run here has failed so. UsageError: a key that no page gives.
    """
    found = db.one("failure", signature=signature)
    if found is None:
        hint = "No crashed run here has that signature; /failures lists those that there are."
        raise NotFound(what="failure", name=show.plain(signature, 80), hint=hint)
    runs = db.all("failure_runs", signature=signature, before=before_of(before), limit=RUNS + 1)
    more, runs = len(runs) > RUNS, runs[:RUNS]
    fixes = {row["seq"]: row["fixed_by"] for row in runs}
    rows = rows_of(db, list(fixes), RUNS)
    names = {task.cid: task.name for task in task_briefs(db)}
    return FailurePage(
        frame=frame(db),
        failure=_failure(found, names),
        runs=tuple(FailedRun(run=row, fixed_by=fixes[row.seq]) for row in rows),
        before=runs[-1]["seq"] if more else None,
        first=not before,
    )


def piece(db: Db, key: str | None, limit: int) -> tuple[tuple[Failure, ...], str | None]:
    """Some signatures, newest first, and the key of those after them."""
    rows = db.all("failures_recent", before=before_of(key), limit=limit)
    names = {task.cid: task.name for task in task_briefs(db)}
    older = str(rows[-1]["last_seq"]) if len(rows) == limit else None
    return tuple(_failure(row, names) for row in rows), older
