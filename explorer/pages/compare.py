"""``/compare``: two to four experiments side by side: numbers with their noise, recipe, loss curves, verdicts."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

from explorer import show
from explorer.db import Db
from explorer.pages.common import TaskBrief, filled, frame, loads_dict, task_briefs
from explorer.values import Page, Who
from spore_borg.errors import NotFound, UsageError

SIDES = ("a", "b", "c", "d")
FIELDS_MAX = 300  # recipe fields shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the experiments compared."""

    letter: str
    cid: str
    title: str
    author: Who
    epoch: int
    task: TaskBrief | None
    hardware_class: str
    metric: int | None
    gain: int | None
    difference: int | None  # how much better than ``a``, nano-units; None: it is ``a``, or not comparable
    difference_milli: int | None  # that in thousandths of the noise of a difference, √2 σ
    outcome: str
    verdict: str
    reason: str
    operator: str
    why: str
    changed: tuple[object, ...]
    frontier: int
    steps: int
    flops: int
    cpu_ms: int
    params_count: int
    fingerprint: str
    evaluator: str | None  # digest of the code that trains and measures; None: its task is not known here
    data: str | None  # the data's blob
    seed: str
    curve: tuple[int, ...]  # train loss, micro-nats, evenly spaced over the steps


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """One recipe field: its value on each side; None where a side lacks it."""

    field: str
    values: tuple[object, ...]
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePage(Page):
    """Experiments side by side."""

    name: ClassVar[str] = "compare"
    sides: tuple[Side, ...]
    comparable: bool  # one task and one hardware class
    sigma: int | None  # noise of one run of that task
    fields: tuple[FieldRow, ...]  # those that differ first
    differing: int
    evaluators: int  # how many different ones measured them
    harness: tuple[FieldRow, ...]  # settings of their tasks that differ


def _side(
    letter: str,
    row: sqlite3.Row,
    tasks: tuple[TaskBrief, ...],
    against: Side | None,
    full: sqlite3.Row | None,
) -> Side:
    task = next((t for t in tasks if t.cid == row["task"]), None)
    difference: int | None = None
    milli: int | None = None
    same = against is not None and against.task == task and against.hardware_class == row["class"]
    if against is not None and same and task and None not in (against.metric, row["metric"]):
        difference = int(against.metric or 0) - row["metric"]
        if task.direction.startswith(("max", "higher")):
            difference = -difference
        milli = difference * 1000 // noise if (noise := isqrt(2 * task.sigma**2)) else None
    return filled(
        Side,
        row,
        letter=letter,
        task=task,
        difference=difference,
        difference_milli=milli,
        evaluator=None if full is None else full["evaluator"],
        data=None if full is None else full["data"],
    )


def _fields(recipes: list[dict[str, object]]) -> tuple[FieldRow, ...]:
    """Every field of any recipe, those that differ first, in the order of the recipes."""
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    rows = [_field(name, recipes) for name in names]
    return tuple(sorted(rows, key=lambda row: not row.differs))[:FIELDS_MAX]


def _field(name: str, recipes: list[dict[str, object]]) -> FieldRow:
    values = tuple(recipe.get(name) for recipe in recipes)
    return FieldRow(field=name, values=values, differs=any(repr(v) != repr(values[0]) for v in values))


def _settings(task: sqlite3.Row | None) -> dict[str, object]:
    """A task's definition, with the settings inside it by their names: ``spec.items``."""
    out: dict[str, object] = {}
    for name, value in loads_dict(None if task is None else task["body"]).items():
        if isinstance(value, dict):
            out |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            out[name] = value
    return out


def compare(
    db: Db, *, a: str | None = None, b: str | None = None, c: str | None = None, d: str | None = None
) -> ComparePage:
    """Build the comparison; the others are measured against ``a``.

    Args:
        a, b, c, d: ids of experiments; those left out are no column.
    Raises:
        UsageError: a text that is no id. NotFound: no such experiment here.
    """
    tasks = task_briefs(db)
    sides: list[Side] = []
    recipes: list[dict[str, object]] = []
    bodies: list[dict[str, object]] = []
    for letter, given in zip(SIDES, (a, b, c, d), strict=True):
        cid = (given or "").strip()
        if not cid:
            continue
        if not show.is_cid(cid):
            raise UsageError(detail=f"?{letter}= must be the whole id of an experiment.")
        row = db.one("compared", cid=cid)
        if row is None:
            hint = "Only experiments that this node holds can be compared."
            raise NotFound(what="experiment", name=cid, hint=hint)
        full = db.one("task", cid=row["task"])
        sides.append(_side(letter, row, tasks, sides[0] if sides else None, full))
        bodies.append(_settings(full))
        recipes.append(loads_dict(row["recipe"]))
    fields = _fields(recipes)
    comparable = len({(s.task.cid if s.task else None, s.hardware_class) for s in sides}) == 1
    return ComparePage(
        frame=frame(db),
        sides=tuple(sides),
        comparable=comparable,
        sigma=sides[0].task.sigma if comparable and sides[0].task else None,
        fields=fields,
        differing=sum(row.differs for row in fields),
        evaluators=len({side.evaluator for side in sides if side.evaluator}),
        harness=tuple(row for row in _fields(bodies) if row.differs),
    )
