"""``/plot.svg``: the frontier plot alone, as the picture that people share. The same value as ``borg plot``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from explorer.db import Db
from explorer.pages.common import TaskBrief, choose_class, choose_task, frame, task_briefs
from explorer.pages.plot import Plot, axis_of, plot, steps_of, window
from explorer.values import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPage(Page):
    """One frontier plot with what its title says."""

    name: ClassVar[str] = "plot"
    task: TaskBrief | None
    hardware_class: str | None
    axis: str
    plot: Plot | None
    best: int | None  # nano-units
    best_cid: str | None
    best_status: str | None  # confirmed or solo


def picture(
    db: Db,
    *,
    task: str | None = None,
    hardware_class: str | None = None,
    x: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> PlotPage:
    """Build the frontier plot of one task and hardware class.

    Args:
        task: name or id; None takes the first. hardware_class: None takes the first with an accepted result.
        x: ``experiment``, ``time`` or ``cost``. since, until: part of that axis to show.
    Raises:
        NotFound: no such task or class. UsageError: no such axis, or no such part of it.
    """
    axis, part = axis_of(x), window(since, until)
    at = frame(db)
    chosen = choose_task(task_briefs(db), task, None)
    _, name, _ = choose_class(db, chosen, hardware_class)
    drawn = plot(db, chosen, name, axis, at.version, part) if chosen and name else None
    steps = steps_of(db, chosen.cid, name) if drawn and chosen and name else []
    last = steps[-1] if steps else None  # of the whole axis, whatever part of it is drawn
    return PlotPage(
        frame=at,
        task=chosen,
        hardware_class=name,
        axis=axis,
        plot=drawn,
        best=last.metric if last else None,
        best_cid=last.cid if last else None,
        best_status=last.status if last else None,
    )
