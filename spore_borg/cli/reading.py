"""Read-only look-ups in a node's views (``views.sqlite``) and records (``log.sqlite``) for the command line.

Values are plain dicts with the column names of ``store/schema.sql``: metrics in nano-units of the task's unit, trust
in 2^-20. Nothing here can write, lock or create a file. Needs no running node.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from spore_borg.errors import IntegrityError, NotFound, UsageError

Row = dict[str, Any]
PREFIX = re.compile(r"[a-z2-7]+")
BUSY_TIMEOUT_S = 2.0

FRONTIER = """
SELECT f.task, t.name AS task_name, t.unit, t.direction, t.sigma, f.class, f.step, f.cid, f.metric, f.runs, f.gain,
  f.threshold, f.round, f.author, n.display, f.verdicts, f.status, e.changed, e.weights,
  (SELECT metric FROM frontier g WHERE g.task = f.task AND g.class = f.class ORDER BY step LIMIT 1) AS metric_first
FROM frontier f JOIN task t ON t.cid = f.task LEFT JOIN node n ON n.name = f.author
LEFT JOIN experiment e ON e.cid = f.cid
WHERE f.step = (SELECT max(step) FROM frontier g WHERE g.task = f.task AND g.class = f.class)
ORDER BY t.name, f.class"""

LOG = """
SELECT r.seq, r.cid, r.kind, r.author, n.display, r.epoch, r.round, r.title, r.size_bytes, e.class, e.metric, e.gain,
  e.outcome, e.verdict, e.stage
FROM record r LEFT JOIN experiment e ON e.seq = r.seq LEFT JOIN node n ON n.name = r.author
WHERE (:kind IS NULL OR r.kind = :kind) AND r.seq < :before ORDER BY r.seq DESC LIMIT :limit"""

QUEUE = """
SELECT q.claim, q.target, q.task, q.author, q.class, q.stage, q.priority, q.parts, q.drawn, q.waiting_for,
  q.round_deadline, q.sentence, r.title
FROM queue q LEFT JOIN record r ON r.cid = q.target ORDER BY q.priority DESC, q.claim LIMIT :limit"""

NODES = """
SELECT name, display, class, role, root, score, frauds, trust, influence_ppm, banned, banned_cause, records,
  experiments, attestations, last_epoch FROM node ORDER BY trust DESC, name LIMIT :limit"""


@contextmanager
def views(home: Path) -> Iterator[sqlite3.Connection]:
    """The views, for reading.

    Raises:
        NotFound: no node has ever run in this directory.
        IntegrityError: the file is no database, or not one of this version.
    """
    with _open(home / "views.sqlite") as connection:
        yield connection


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise NotFound(
            what="node in",
            name=path.parent,
            hint="Make one with `borg init` or `borg run`, or give its directory with --home.",
        )
    connection = _connect(path)
    try:
        yield connection
    except sqlite3.DatabaseError as error:
        hint = "Stop the node and run `borg rebuild`." if path.name == "views.sqlite" else "Run `borg check`."
        raise IntegrityError(what=path.name, detail=str(error), hint=hint) from error
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open read-only; a copy on a read-only disk has no room for a WAL index and is opened as immutable."""
    for options in ("mode=ro", "mode=ro&immutable=1"):
        uri = f"file:{quote(str(path.absolute()))}?{options}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA query_only=1")
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            connection.close()
            continue
        except sqlite3.DatabaseError as error:
            connection.close()
            raise IntegrityError(what=path.name, detail=str(error), hint="Run `borg doctor`.") from error
        return connection
    raise IntegrityError(what=path.name, detail="it cannot be opened for reading", hint="Run `borg doctor`.")


def rows(connection: sqlite3.Connection, sql: str, **values: object) -> list[Row]:
    """All rows of a query as dicts."""
    return [dict(row) for row in connection.execute(sql, values)]


def meta(connection: sqlite3.Connection) -> dict[str, str]:
    """The table ``meta``: mesh, round, digest, …"""
    return {row["key"]: row["value"] for row in connection.execute("SELECT key, value FROM meta")}


def live(connection: sqlite3.Connection) -> dict[str, Any]:
    """What the node's process said last of what it does now; JSON values by key. May be stale: it may be gone."""
    return {row["key"]: json.loads(row["value"]) for row in connection.execute("SELECT key, value FROM live")}


def frontier(connection: sqlite3.Connection) -> list[Row]:
    """The best accepted result per task and hardware class, with how it was verified."""
    found = rows(connection, FRONTIER)
    for row in found:
        row["changed"] = json.loads(row["changed"] or "[]")
        row["evidence"] = evidence(connection, row["cid"])
    return found


def evidence(connection: sqlite3.Connection, cid: str) -> dict[str, int]:
    """How many attestations of each tier passed, for one experiment: ``{"T1": 2, "T2": 1}``."""
    sql = "SELECT tier, count(*) AS n FROM attestation WHERE target = :cid AND word = 'pass' GROUP BY tier"
    return {row["tier"]: row["n"] for row in connection.execute(sql, {"cid": cid})}


def one(connection: sqlite3.Connection, what: str, sql: str, prefix: str) -> Row:
    """The one row whose id (first column) begins with, or after its last-ten-characters form ``…x`` ends with, a text.

    Raises:
        NotFound: there is none. UsageError: there are several, or the text cannot be part of an id.
    """
    text = prefix.strip().lower()
    pattern = f"*{text[1:]}" if text.startswith("…") else f"{text}*"
    if not PREFIX.fullmatch(text.removeprefix("…")):
        raise UsageError(detail=f"{prefix!r} is no id: ids are made of the letters a–z and the digits 2–7.")
    found = rows(connection, f"{sql} GLOB :pattern LIMIT 3", pattern=pattern)
    if not found:
        raise NotFound(what=what, name=prefix, hint="`borg log` and `borg reputation` list what there is.")
    if len(found) > 1:
        some = ", ".join(str(next(iter(row.values()))) for row in found)
        raise UsageError(detail=f"{prefix!r} is not enough to tell one {what}: {some} … Give more of it.")
    return found[0]


def record(connection: sqlite3.Connection, prefix: str) -> Row:
    """The row of one record; see :func:`one` for how it may be named."""
    return one(connection, "record", "SELECT cid, * FROM record WHERE cid", prefix)


def node(connection: sqlite3.Connection, prefix: str) -> Row:
    """The row of one node; see :func:`one` for how it may be named."""
    return one(connection, "node", "SELECT name, * FROM node WHERE name", prefix)


def experiment(connection: sqlite3.Connection, cid: str) -> Row | None:
    """The row of an experiment with its JSON columns read, or None for another kind of record."""
    found = rows(connection, "SELECT * FROM experiment WHERE cid = :cid", cid=cid)
    if not found:
        return None
    row = found[0]
    for name in ("recipe", "changed", "curve"):
        row[name] = json.loads(row[name])
    return row


def raw_record(home: Path, cid_text: str) -> bytes:
    """The signed bytes of a record, from the log.

    Raises:
        NotFound: the views name it, the log does not have it.
    """
    from spore_borg.records.cid import Cid

    with _open(home / "log.sqlite") as connection:
        found = rows(connection, "SELECT raw FROM record WHERE cid = :cid", cid=bytes(Cid.parse(cid_text)))
    if not found:
        raise NotFound(
            what="record", name=cid_text, hint="The views are ahead of the log: run `borg rebuild`."
        )
    return bytes(found[0]["raw"])
