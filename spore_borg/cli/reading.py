"""Reading a node's directory for the command line: the explorer's pages as values, and ids given in part.

A command that shows what a page shows builds that page (:mod:`explorer.pages`) and prints it, so that
``borg frontier --json`` and ``/frontier.json`` cannot drift apart. Opens the databases read-only; needs no running
node, and leaves no file behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from explorer.db import Db
from explorer.values import Page
from spore_borg.cli.frame import to_plain
from spore_borg.errors import NotFound, UsageError

PART = re.compile(r"…?[a-z2-7]{1,100}")
RECORDS = "SELECT cid FROM record WHERE cid GLOB ? LIMIT 3"
NODES = "SELECT name FROM node WHERE name GLOB ? LIMIT 3"
EXPERIMENT = "SELECT cid, task, base, metric, gain, recipe, changed FROM experiment WHERE cid = ?"
EVIDENCE = "SELECT tier, count(*) AS n FROM attestation WHERE target = ? AND word = 'pass' GROUP BY tier"


@contextmanager
def views(home: Path) -> Iterator[Db]:
    """The views of a directory, all reads at one state of them.

    Raises:
        NotFound: no node has ever run there.
        IntegrityError: a file is no database, or not one of this version.
    """
    db = Db(home)
    try:
        if db.fresh:
            raise NotFound(
                what="node in",
                name=home,
                hint="Make one with `borg init` or `borg run`, or give its directory with --home.",
            )
        with db.snapshot():
            yield db
    finally:
        db.close()


def page_value(page: Page) -> dict[str, Any]:
    """A page as the plain value that its JSON twin has."""
    return {"page": page.name, **dict(_items(to_plain(page)))}


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def record_id(db: Db, part: str) -> str:
    """The id of the one record whose id begins with ``part``, or ends with it where it is written ``…abc``.

    Raises:
        NotFound: there is none. UsageError: there are several, or the text cannot be part of an id.
    """
    return _one(db, "record", RECORDS, part)


def node_name(db: Db, part: str) -> str:
    """The name of one node, given in part; as :func:`record_id`."""
    return _one(db, "node", NODES, part)


def _one(db: Db, what: str, sql: str, part: str) -> str:
    text = part.strip().lower()
    if not PART.fullmatch(text):
        raise UsageError(detail=f"{part!r} is no id: ids are made of the letters a–z and the digits 2–7.")
    pattern = f"*{text[1:]}" if text.startswith("…") else f"{text}*"
    found = [str(row[0]) for row in db.connection.execute(sql, (pattern,))]
    if not found:
        raise NotFound(what=what, name=part, hint="`borg log` and `borg reputation` list what there is.")
    if len(found) > 1:
        raise UsageError(
            detail=f"{part!r} is not enough to tell one {what}: {', '.join(found)} … Give more of it."
        )
    return found[0]


def experiment(db: Db, cid: str) -> dict[str, Any] | None:
    """Recipe, base and metric of an experiment; None for another kind of record."""
    row = db.connection.execute(EXPERIMENT, (cid,)).fetchone()
    if row is None:
        return None
    return {**dict(row), "recipe": json.loads(row["recipe"]), "changed": json.loads(row["changed"])}


def evidence(db: Db, cid: str) -> dict[str, int]:
    """How many attestations of each tier passed, for one experiment: ``{"T1": 2, "T2": 1}``."""
    return {row["tier"]: row["n"] for row in db.connection.execute(EVIDENCE, (cid,))}
