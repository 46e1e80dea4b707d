"""What several pages read: the frame, rows of records, tasks, and what the node does just now."""

from __future__ import annotations

import dataclasses
import functools
import json
import sqlite3
import typing
from collections.abc import Callable
from dataclasses import dataclass

from explorer import show
from explorer.db import Db
from explorer.values import Agreement, Frame, RecordRow, Who
from spore_borg.errors import NotFound, UsageError
from spore_borg.views.lattices import KIND

LAST = 1 << 62  # a key after every other
DIGEST_ROUNDS = 8  # rounds back in which a node's last seal still counts as reporting
TEXT_MAX = 200  # characters of any parameter
T = typing.TypeVar("T")


def number(text: str | None) -> int | None:
    """An integer of the ``meta`` table, or None."""
    try:
        return int(text) if text else None
    except ValueError:
        return None


def before_of(text: str | None, name: str = "before") -> int:
    """A paging key from a URL.

    Raises:
        UsageError: it is not a positive whole number.
    """
    if not text:
        return LAST
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(
            detail=f"?{name}= must be a positive whole number, such as the link at the end of a page gives."
        )
    return int(text)


def loads(text: str | None) -> object:
    """JSON of the views; None if it is not JSON (an older view, say)."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def loads_list(text: str | None) -> list[object]:
    """A JSON list of the views; anything else is an empty one."""
    value = loads(text)
    return value if isinstance(value, list) else []


def objects(value: object) -> list[dict[str, object]]:
    """The objects of a decoded JSON list; of anything else, none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def loads_dict(text: str | None) -> dict[str, object]:
    """A JSON object of the views; anything else is an empty one."""
    value = loads(text)
    return value if isinstance(value, dict) else {}


def who(row: sqlite3.Row, column: str = "author") -> Who:
    """The node in ``column``, with the display name that the row joined."""
    return Who(name=row[column] or "", display=row["display"])


def _integers(text: str | None) -> tuple[int, ...]:
    return tuple(value for value in loads_list(text) if isinstance(value, int))


_READERS: dict[object, Callable[[typing.Any], object]] = {  # of what a column holds in another form
    bool: bool,
    bool | None: lambda value: None if value is None else bool(value),
    tuple[object, ...]: lambda text: tuple(loads_list(text)),
    tuple[str, ...]: lambda text: tuple(str(item) for item in loads_list(text)),
    tuple[int, ...]: _integers,
    dict[str, object]: loads_dict,
}


@functools.cache
def _hints(kind: type) -> dict[str, object]:
    """Every field of a dataclass with its type (a class variable is no field)."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def filled(kind: type[T], row: sqlite3.Row, /, **given: object) -> T:
    """The dataclass ``kind`` from a row: each field from the column of its name, read as its type asks.

    ``hardware_class`` is the column ``class``; a :class:`Who` is made with the row's display name; a bool is a number
    in the views, a tuple or dict is JSON. What is ``given`` stands instead of a column.

    Raises:
        IndexError: a field has no column and is not given.
    """
    values = dict(given)
    for name, hint in _hints(kind).items():  # type: ignore[arg-type]  # mypy doubts that a class is hashable
        if name in given:
            continue
        if hint is Who:
            values[name] = who(row, name)
        else:
            value = row["class" if name == "hardware_class" else name]
            values[name] = _READERS[hint](value) if hint in _READERS else value
    return kind(**values)


def _agreement(db: Db, settled: int | None, digest: str) -> Agreement | None:
    """The newest round whose view most nodes have reported in their last seal, and how many report ours."""
    if settled is None:
        return None
    groups = db.all("digests", floor=settled - DIGEST_ROUNDS)
    reporting: dict[int, int] = {}
    for row in groups:
        reporting[row["digest_round"]] = reporting.get(row["digest_round"], 0) + row["nodes"]
    if not reporting:
        return None
    chosen = max(reporting, key=lambda r: (reporting[r], r))
    found = db.one("round", round=chosen)
    ours = found["digest"] if found is not None and found["digest"] else (digest if chosen == settled else "")
    if not ours:
        return None
    same = sum(g["nodes"] for g in groups if g["digest_round"] == chosen and g["digest"] == ours)
    known = db.all("node_count")[0]["n"]
    return Agreement(
        round=chosen, digest=ours, nodes_same=same, nodes_reporting=reporting[chosen], nodes_known=known
    )


def frame(db: Db) -> Frame:
    """Where these views stand."""
    meta = {row["key"]: row["value"] for row in db.all("meta")}
    settled = number(meta.get("round_settled"))
    counted = number(meta.get("records"))
    return Frame(
        version=number(meta.get("version")) or 0,
        fresh=db.fresh,
        status=meta.get("status") or "empty",
        mesh=meta.get("mesh", ""),
        mesh_name=meta.get("mesh_name", ""),
        me=meta.get("me", ""),
        round=number(meta.get("round")),
        round_settled=settled,
        epoch=number(meta.get("epoch_latest")),
        epoch_ms=number(meta.get("epoch_ms")),
        time_ms=number(meta.get("time_ms")),
        digest=meta.get("digest", ""),
        records=db.all("record_count")[0]["n"] if counted is None else counted,
        waiting=db.all("waiting_count")[0]["n"],
        nodes=db.all("node_count")[0]["n"],
        agreement=_agreement(db, settled, meta.get("digest", "")),
    )


def record_row(row: sqlite3.Row) -> RecordRow:
    """One row of the query ``rows`` as a value."""
    return filled(RecordRow, row)


def rows_of(db: Db, seqs: list[int], limit: int, **filters: str | None) -> tuple[RecordRow, ...]:
    """The records with these numbers that pass the filters, newest first."""
    names = ("kind", "author", "task", "class", "verdict", "outcome")
    params = {name: filters.get(name) for name in names}
    found = db.all("rows", seqs=json.dumps(seqs), limit=limit, **params)
    return tuple(sorted((record_row(row) for row in found), key=lambda r: -r.seq))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBrief:
    """A task in a selector, with the noise by which its numbers are to be read."""

    cid: str
    name: str
    metric: str
    direction: str
    unit: str
    sigma: int  # nano-units: standard deviation over seeds
    gain_min: int
    kind: str  # what its claims are: experiment or absorption
    cost_unit: str  # of a run: FLOP, or character where it reads and does not train


def task_brief(row: sqlite3.Row) -> TaskBrief:
    """One row of the table ``task`` as a value."""
    spec = loads_dict(row["body"]).get("spec")
    reads = isinstance(spec, dict) and spec.get("kind") == KIND
    return filled(TaskBrief, row, cost_unit="character" if reads else "FLOP")


def task_briefs(db: Db) -> tuple[TaskBrief, ...]:
    """Every task, by name; those of absorption last."""
    found = map(task_brief, db.all("tasks"))
    return tuple(sorted(found, key=lambda t: (t.kind != "experiment", t.name, t.cid)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The experiment that this node runs just now."""

    task: str
    change: str
    step: int
    steps: int
    loss: str
    eta_s: float | None


def live_values(db: Db) -> dict[str, object]:
    """What the node says that it does now: the table ``live``, decoded."""
    return {row["key"]: loads(row["value"]) for row in db.all("live")}


def running(live: dict[str, object]) -> Running | None:
    """The running experiment, if the node says that there is one."""
    run = live.get("run")
    if not isinstance(run, dict) or not run:
        return None
    change = run.get("change", run.get("what", ""))
    loss, eta = run.get("loss"), run.get("eta_s")
    return Running(
        task=str(run.get("task") or ""),
        change=change if isinstance(change, str) else changed_text(change),
        step=_whole(run.get("step")),
        steps=_whole(run.get("steps")),
        loss="" if loss is None else (f"{loss / 1e6:.4f}" if isinstance(loss, int) else str(loss)),
        eta_s=float(eta) if isinstance(eta, int | float) else None,
    )


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def changed_text(changed: object) -> str:
    """``[[field, before, after], …]`` as one line without values' scales."""
    if not isinstance(changed, list):
        return ""
    parts = [f"{c[0]} {c[1]}→{c[2]}" for c in changed if isinstance(c, list) and len(c) == 3]
    return ", ".join(parts)


def choose_task(
    tasks: tuple[TaskBrief, ...], wanted: str | None, running_now: Running | None
) -> TaskBrief | None:
    """The task asked for (by name or id), else the one that runs now, else the first.

    Raises:
        NotFound: no such task.
    """
    if wanted:
        for task in tasks:
            if wanted in {task.cid, task.name}:
                return task
        raise NotFound(what="task", name=wanted[:TEXT_MAX], hint="/tasks lists those of this mesh.")
    if running_now is not None:
        for task in tasks:
            if running_now.task in {task.cid, task.name}:
                return task
    return tasks[0] if tasks else None


def choose_class(
    db: Db, task: TaskBrief | None, wanted: str | None
) -> tuple[tuple[str, ...], str | None, str | None]:
    """``(classes, class, best)``: those in which somebody ran the task, the one to show, and the id of its best.

    Raises:
        NotFound: nobody ran the task in the class that is asked for.
    """
    names: list[str] = []
    bests: dict[str, str] = {}
    for row in db.all("classes", task=task.cid) if task else ():
        names.append(row["class"])
        last = db.one("frontier_last", **{"task": task.cid if task else "", "class": row["class"]})
        if last is not None:
            bests[row["class"]] = last["cid"]
    if wanted and wanted not in names:
        hint = "The overview shows the classes in which somebody ran this task."
        raise NotFound(what="hardware class", name=wanted[:TEXT_MAX], hint=hint)
    chosen = wanted or next(iter(bests), names[0] if names else None)
    return tuple(names), chosen, bests.get(chosen or "")


def leaders_rows(db: Db, after: str | None, limit: int) -> list[sqlite3.Row]:
    """Nodes by trust, the highest first, that follow the key ``TRUST.NAME``.

    Raises:
        UsageError: a key that no page gives.
    """
    if not after:
        return db.all("leaders_first", limit=limit)
    trust, _, name = after.partition(".")
    if not (trust.isascii() and trust.isdigit() and len(trust) < 19 and show.is_node(name)):
        raise UsageError(detail="?after= must be TRUST.NAME, as the link at the end of the table gives it.")
    return db.all("leaders_after", trust=int(trust), name=name, limit=limit)
