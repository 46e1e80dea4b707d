"""Whole tables as CSV, NDJSON or Parquet, read and sent a piece at a time.

Each piece is one short read of the views, so that an export of any length neither fills memory nor keeps the node from
tidying up its log. A record that arrives meanwhile is newer than what was sent and does not appear twice.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from explorer import export_rows, parquet, show
from explorer.db import Db
from explorer.export_rows import FrontierStep, RoundRow, Run
from explorer.pages import frontier as frontier_page
from explorer.pages import verify as verify_page
from explorer.pages.attested import Attested
from explorer.pages.common import (
    TaskBrief,
    before_of,
    frame,
    leaders_rows,
    task_briefs,
)
from explorer.pages.dag import lanes_rows
from explorer.pages.failures import Failure
from explorer.pages.failures import piece as failures_piece
from explorer.pages.frontier import Best
from explorer.pages.mesh import Known, known
from explorer.pages.record import Entry
from explorer.pages.records import facets_of, page_of
from explorer.pages.reputation import Standing, ledger_of, standing
from explorer.pages.state import Shard
from explorer.pages.state import piece as shards_piece
from explorer.pages.verify import Waiting
from explorer.values import RecordRow, Who, to_plain
from spore_borg.errors import UsageError

PIECE_ROWS = 500
MEDIA = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson", "parquet": parquet.MEDIA}
Asked = Mapping[str, str | None]
Piece = tuple[tuple[object, ...], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One experiment of the graph and what it builds on."""

    seq: int
    cid: str
    base: str | None
    base2: str | None
    task: str
    hardware_class: str
    metric: int | None
    gain: int | None
    outcome: str
    verdict: str
    frontier: int
    operator: str
    author: Who


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the type of its rows, its parameters, and how to read the piece at a key (None: the first)."""

    row: type
    query: tuple[str, ...]
    piece: Callable[[Db, Asked, str | None], Piece]


def _key(key: object) -> str | None:
    return None if key is None else str(key)


def _records(db: Db, asked: Asked, key: str | None) -> Piece:
    rows, older, _ = page_of(db, facets_of(db, **asked), before_of(key), PIECE_ROWS)
    return rows, _key(older)


def _dag(db: Db, _asked: Asked, key: str | None) -> Piece:
    rows, older = lanes_rows(db, before_of(key), PIECE_ROWS)
    names = [field.name for field in dataclasses.fields(Edge)]
    return tuple(Edge(**{name: getattr(row, name) for name in names}) for row in rows), _key(older)


def _ledger(db: Db, asked: Asked, key: str | None) -> Piece:
    node = asked.get("node") or None
    if node and not show.is_node(node):
        raise UsageError(detail="?node= must be a node's name, as in the address of its page.")
    rows, older = ledger_of(db, node, before_of(key), PIECE_ROWS)
    return rows, _key(older)


def _verify(db: Db, _asked: Asked, key: str | None) -> Piece:
    page = verify_page(db, after=key)
    return page.waiting, page.after


def _reputation(db: Db, _asked: Asked, key: str | None) -> Piece:
    rows = leaders_rows(db, key, PIECE_ROWS)
    last = f"{rows[-1]['trust']}.{rows[-1]['name']}" if len(rows) == PIECE_ROWS else None
    return tuple(standing(row) for row in rows), last


def _mesh(db: Db, _asked: Asked, key: str | None) -> Piece:
    rows = leaders_rows(db, key, PIECE_ROWS)
    last = f"{rows[-1]['trust']}.{rows[-1]['name']}" if len(rows) == PIECE_ROWS else None
    return known(db, frame(db), rows), last


def _simple(read: Callable[[Db, str | None, int], Piece]) -> Callable[[Db, Asked, str | None], Piece]:
    return lambda db, _asked, key: read(db, key, PIECE_ROWS)


TABLES: dict[str, Table] = {
    "records": Table(RecordRow, ("kind", "author", "task", "class", "outcome", "verdict", "q"), _records),
    "dag": Table(Edge, (), _dag),
    "frontier": Table(Best, (), lambda db, _asked, _key: (frontier_page(db).rows, None)),
    "verify": Table(Waiting, (), _verify),
    "reputation": Table(Standing, (), _reputation),
    "ledger": Table(Entry, ("node",), _ledger),
    "mesh": Table(Known, (), _mesh),
    "experiments": Table(Run, (), _simple(export_rows.runs)),
    "steps": Table(FrontierStep, (), _simple(export_rows.steps)),
    "evidence": Table(Attested, (), _simple(export_rows.evidence)),
    "rounds": Table(RoundRow, (), _simple(export_rows.rounds)),
    "state": Table(Shard, (), _simple(shards_piece)),
    "failures": Table(Failure, (), _simple(failures_piece)),
    "tasks": Table(TaskBrief, (), lambda db, _asked, _key: (task_briefs(db), None)),
}


def columns(row: type, prefix: str = "") -> list[str]:
    """The names of a CSV's columns: fields, and ``author_name`` for a field inside a field."""
    hints = typing.get_type_hints(row)
    out: list[str] = []
    for field in dataclasses.fields(row):
        hint = hints[field.name]
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        out += columns(hint, f"{prefix}{field.name}_") if nested else [prefix + field.name]
    return out


def cells(value: object) -> list[object]:
    """One row as CSV cells: lists and objects as JSON, booleans as 0 and 1, texts so that no program computes them.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; NDJSON has it as it is.
    """
    out: list[object] = []
    assert dataclasses.is_dataclass(value)
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            out += cells(item)
        elif isinstance(item, bool):
            out.append(int(item))
        elif isinstance(item, list | tuple | dict):
            out.append(json.dumps(to_plain(item), ensure_ascii=False))
        elif isinstance(item, str):
            out.append(f"'{item}" if item.startswith(("=", "+", "-", "@", "\t", "\r")) else item)
        else:
            out.append(item)
    return out


def _csv(table: Table, rows: tuple[object, ...], first: bool) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    if first:
        writer.writerow(columns(table.row))
    writer.writerows(cells(row) for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _ndjson(rows: tuple[object, ...]) -> bytes:
    out = []
    for row in rows:
        out.append(json.dumps(to_plain(row), ensure_ascii=False, separators=(",", ":")) + "\n")
    return "".join(out).encode("utf-8", "replace")


def pieces(home: Path, name: str, asked: Asked, *, public: bool = False) -> Generator[tuple[object, ...]]:
    """The rows of a table, some at a time, each read short and of its own.

    Args:
        name: of :data:`TABLES`. asked: the table's query parameters. public: as for :class:`Db`.
    Raises:
        UsageError: a parameter that cannot be (before the first piece).
    """
    table = TABLES[name]
    db = Db(home, public=public)
    try:
        key: str | None = None
        first = True
        while first or key is not None:
            with db.snapshot():
                rows, key = table.piece(db, asked, key)
            yield rows
            first = False
    finally:
        db.close()


def form(name: str, ext: str, rows: Iterable[tuple[object, ...]]) -> Iterator[bytes]:
    """Rows of a table in one form.

    Args:
        name: of :data:`TABLES`. ext: ``csv``, ``ndjson`` or ``parquet``. rows: some at a time.
    Raises:
        NoParquet: pyarrow is not installed; before the first piece.
    """
    if ext == "parquet":
        yield from parquet.encode(TABLES[name].row, rows)
        return
    for number, part in enumerate(rows):
        yield _csv(TABLES[name], part, number == 0) if ext == "csv" else _ndjson(part)


def stream(
    home: Path, name: str, ext: str, asked: Asked, *, public: bool = False
) -> Generator[bytes, None, None]:
    """A table of a directory in one form, piece by piece; as :func:`pieces` and :func:`form`."""
    rows = pieces(home, name, asked, public=public)
    try:
        yield from form(name, ext, rows)
    finally:
        rows.close()
