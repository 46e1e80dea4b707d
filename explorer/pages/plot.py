"""The frontier plot as a value: its steps, unverified runs and all runs as cells of a grid.

Every run of a task and class is read from one covering index and counted into cells, so that the page's size does
not grow with the number of runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from threading import Lock

from explorer.db import Db
from explorer.pages.common import TaskBrief, filled
from explorer.values import Who
from spore_borg.errors import UsageError

RUNS_MAX = 60_000  # newest runs of one class that are drawn
RECENT_MAX = 8  # plots kept
COLUMNS, ROWS = 216, 72  # cells of the grid of faint dots
HOLLOW_MAX = 40  # unverified runs drawn one by one: the best of them
AXES = ("experiment", "time", "cost")
FLOP_SPENT = "FLOP spent"
SPENT = {"FLOP": FLOP_SPENT, "character": "characters read"}  # the axis of cost, by the unit of a run's cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the frontier: a recipe that was the best when its verdict was derived."""

    step: int
    cid: str
    title: str
    changed: tuple[object, ...]  # [field, before, after] against its base
    author: Who
    metric: int  # nano-units: mean over ``runs`` accepted runs
    runs: int
    gain: int | None
    threshold: int  # the gain that it had to exceed
    round: int
    epoch: int
    verdicts: int
    status: str  # confirmed or solo
    x: int  # on the chosen axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Hollow:
    """One unverified run near the frontier."""

    cid: str
    metric: int
    x: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """The frontier of one task and hardware class."""

    axis: str
    x_unit: str
    x_low: int
    x_high: int
    whole_low: int  # of the whole axis; x_low and x_high are those of the part that is shown
    whole_high: int
    zoomed: bool
    y_low: int  # nano-units
    y_high: int
    sigma: int
    steps: tuple[Step, ...]
    hollow: tuple[Hollow, ...]
    runs: int  # runs read
    runs_cut: bool  # older runs exist that are not drawn
    columns: int
    rows: int
    dots: tuple[tuple[int, int, int], ...]  # (row, first column, columns): cells in which there is a run


def axis_of(text: str | None) -> str:
    """The horizontal axis that is asked for; None: by experiment.

    Raises:
        UsageError: there is no such axis.
    """
    axis = text or "experiment"
    if axis not in AXES:
        raise UsageError(detail=f"The horizontal axis must be one of {', '.join(AXES)}.")
    return axis


def steps_of(db: Db, task: str, hardware_class: str) -> list[Step]:
    """All frontier steps of a task and class, oldest first, with x not yet set."""
    return [
        filled(Step, row, title=row["title"] or "", epoch=row["epoch"] or 0, x=row["seq"])
        for row in db.all("frontier_steps", **{"task": task, "class": hardware_class})
    ]


def _range(steps: list[Step], metrics: list[int], sigma: int, lower: bool) -> tuple[int, int]:
    """The y range: the frontier with room for its noise band, or all runs while there is no frontier."""
    values = [s.metric for s in steps]
    if len(values) < 2 and metrics:
        ordered = sorted(metrics)
        values += [ordered[0], ordered[(len(ordered) - 1) * 9 // 10]]
    if not values:
        return 0, 1
    low, high = min(values), max(values)
    if len(values) > 1 and metrics:  # room for runs that look better than the best but have not become it
        reach = (high - low) // 3
        low, high = (
            (max(min(low, *metrics), low - reach), high)
            if lower
            else (low, min(max(high, *metrics), high + reach))
        )
    room = max((high - low) // 12, 2 * sigma + sigma // 2, 1000)
    below, above = (room, room // 2 + 1) if lower else (room // 2 + 1, room)
    return low - below, high + above


def _runs(cells: set[int]) -> tuple[tuple[int, int, int], ...]:
    """Neighbouring cells of a row as one entry: (row, first column, count)."""
    out: list[tuple[int, int, int]] = []
    for cell in sorted(cells):
        row, column = divmod(cell, COLUMNS)
        if out and out[-1][0] == row and out[-1][1] + out[-1][2] == column:
            out[-1] = (row, out[-1][1], out[-1][2] + 1)
        else:
            out.append((row, column, 1))
    return tuple(out)


def _positions(rows: Sequence[tuple[int, int | None, int, int, str]], axis: str, offset: int) -> list[int]:
    """The x of each run, oldest first: its number, its epoch, or FLOPs spent so far."""
    if axis == "time":
        return [row[3] for row in rows]
    if axis == "cost":
        return list(accumulate(row[2] for row in rows))
    return list(range(offset + 1, offset + len(rows) + 1))


@dataclass(slots=True)
class _Recent:
    """The last few plots: the page is read again whenever the running experiment moves, its plot seldom changes."""

    kept: OrderedDict[tuple[object, ...], Plot | None] = field(default_factory=OrderedDict)
    lock: Lock = field(default_factory=Lock)


_recent = _Recent()


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the horizontal axis; None: from its beginning, to its end."""

    low: int | None = None
    high: int | None = None

    def holds(self, x: int) -> bool:
        """Whether a place is in it."""
        return (self.low is None or x >= self.low) and (self.high is None or x <= self.high)


WHOLE = Window()


def window(since: str | None, until: str | None) -> Window:
    """A part of the axis from ``?from=`` and ``?to=``.

    Raises:
        UsageError: they are not whole numbers.
    """
    ends: list[int | None] = []
    for name, text in (("from", since), ("to", until)):
        if text and not (text.isascii() and text.isdigit() and len(text) < 19):
            raise UsageError(detail=f"?{name}= must be a whole number on the horizontal axis.")
        ends.append(int(text) if text else None)
    low, high = ends
    if low is not None and high is not None and low >= high:
        low, high = (
            min(low, high),
            max(low, high) + (low == high),
        )  # given the wrong way round: what is meant is clear
    return Window(low, high)


def plot(
    db: Db, task: TaskBrief, hardware_class: str, axis: str, version: int, part: Window = WHOLE
) -> Plot | None:
    """One frontier plot, at most once for each version of the views; None if nobody has run anything here.

    Args:
        part: of the axis. What lies outside is left out, except for the step that was the best at its beginning.
    """
    key = (db.identity, version, task, hardware_class, axis, part)
    with _recent.lock:
        if key in _recent.kept:
            _recent.kept.move_to_end(key)
            return _recent.kept[key]
    made = _plot(db, task, hardware_class, axis, part)
    with _recent.lock:
        _recent.kept[key] = made
        while len(_recent.kept) > RECENT_MAX:
            _recent.kept.popitem(last=False)
    return made


def _inside(
    part: Window, rows: list[tuple[int, int | None, int, int, str]], xs: list[int], placed: list[Step]
) -> tuple[list[tuple[int, int | None, int, int, str]], list[int], list[Step]]:
    """Runs and steps of a part of the axis, and the step that was the best where it begins."""
    kept = [number for number, x in enumerate(xs) if part.holds(x)]
    steps = [step for step in placed if part.holds(step.x)]
    before = [step for step in placed if part.low is not None and step.x < part.low]
    if before:
        steps.insert(0, replace(before[-1], x=part.low or 0))
    return [rows[number] for number in kept], [xs[number] for number in kept], steps


def _plot(db: Db, task: TaskBrief, hardware_class: str, axis: str, part: Window) -> Plot | None:
    """Read and arrange one frontier plot."""
    found = db.all("runs", **{"task": task.cid, "class": hardware_class, "limit": RUNS_MAX})
    rows = [tuple(row) for row in reversed(found)]
    steps = steps_of(db, task.cid, hardware_class)
    if not rows:
        return None
    lower = task.direction != "maximize" and not task.direction.startswith(("max", "higher"))
    xs = _positions(rows, axis, 0)
    whole_low, whole_high = min(xs[0], 1 if axis == "experiment" else xs[0]), max(xs[-1], xs[0] + 1)
    all_runs = len(rows)
    steps = _placed(steps, [row[0] for row in rows], xs)
    rows, xs, steps = _inside(part, rows, xs, steps)
    metrics = [row[1] for row in rows if row[1] is not None and row[4] != "refuted"]
    y_low, y_high = _range(steps, metrics, task.sigma, lower)
    x_low = max(whole_low, part.low or 0)
    x_high = max(x_low + 1, whole_high if part.high is None else min(part.high, whole_high))
    x_span, y_span = x_high - x_low, y_high - y_low
    cells: set[int] = set()
    hollow: list[tuple[int, int, int]] = []
    for row, x in zip(rows, xs, strict=True):
        value = row[1]
        if value is None or not y_low <= value <= y_high:
            continue
        column = (x - x_low) * (COLUMNS - 1) // x_span
        cells.add((y_high - value) * (ROWS - 1) // y_span * COLUMNS + column)
        if row[4] == "unverified":
            hollow.append((value if lower else -value, row[0], x))
    hollow.sort()
    return Plot(
        axis=axis,
        x_unit={"experiment": "experiments", "time": "epoch", "cost": SPENT[task.cost_unit]}[axis],
        x_low=x_low,
        x_high=x_high,
        y_low=y_low,
        y_high=y_high,
        sigma=task.sigma,
        steps=tuple(steps),
        hollow=_hollow(db, hollow[:HOLLOW_MAX], lower),
        runs=len(rows),
        runs_cut=all_runs == RUNS_MAX,
        whole_low=whole_low,
        whole_high=whole_high,
        zoomed=part != WHOLE,
        columns=COLUMNS,
        rows=ROWS,
        dots=_runs(cells),
    )


def _placed(steps: list[Step], seqs: list[int], xs: list[int]) -> list[Step]:
    """Frontier steps with their place on the axis: that of their run, never before the step before."""
    out: list[Step] = []
    last = xs[0]
    for step in steps:
        at = min(bisect_left(seqs, step.x), len(xs) - 1)
        last = max(last, xs[at])
        out.append(replace(step, x=last))
    return out


def _hollow(db: Db, chosen: list[tuple[int, int, int]], lower: bool) -> tuple[Hollow, ...]:
    """The best unverified runs, with their ids."""
    places = {seq: (value if lower else -value, x) for value, seq, x in chosen}
    found = db.all("cids", seqs="[" + ",".join(map(str, places)) + "]") if places else []
    return tuple(Hollow(cid=r["cid"], metric=places[r["seq"]][0], x=places[r["seq"]][1]) for r in found)
