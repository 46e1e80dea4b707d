"""Where each experiment stands in a drawn graph: one column a line of descent, as ``git log --graph`` does it.

Rows come newest first. A column waits for one record, the base of what is above; experiments with the same base
share the column that waits for it, so the width grows with the bases still open, not with the experiments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LANES_MAX = 12  # columns drawn; lines beyond share the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The graph in one row: a dot in ``lane``, a line to it from above, lines past it and down from it."""

    lane: int
    above: bool
    through: tuple[int, ...]
    down: tuple[int, ...]


def lanes(rows: Sequence[tuple[str, Sequence[str]]], awaited: Iterable[str] = ()) -> tuple[Cell, ...]:
    """Lay out rows ``(cid, bases)``, newest first.

    Args:
        awaited: those of the rows that something above the first row builds on; their lines enter from above.
    """
    columns: list[str | None] = list(awaited)
    out: list[Cell] = []
    for cid, bases in rows:
        above = cid in columns
        lane = columns.index(cid) if above else _free(columns)
        columns[lane] = None
        through = tuple(i for i, waits in enumerate(columns) if waits is not None)
        down: list[int] = []
        for base in bases:
            if base not in columns:
                at = lane if columns[lane] is None else _free(columns)
                columns[at] = base
            down.append(columns.index(base))
        while columns and columns[-1] is None:
            columns.pop()
        out.append(Cell(lane=_shown(lane), above=above, through=_distinct(through), down=_distinct(down)))
    return tuple(out)


def width(cells: Iterable[Cell]) -> int:
    """How many columns are drawn; at least one."""
    return 1 + max((max((c.lane, *c.through, *c.down)) for c in cells), default=0)


def _free(columns: list[str | None]) -> int:
    """The first column that waits for nothing; a new one if all do."""
    if None in columns:
        return columns.index(None)
    columns.append(None)
    return len(columns) - 1


def _shown(lane: int) -> int:
    return min(lane, LANES_MAX - 1)


def _distinct(found: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({_shown(lane) for lane in found}))
