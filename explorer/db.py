"""The node's two databases, opened so that nothing here can write, lock or create anything.

``views.sqlite`` holds what the folds say, ``log.sqlite`` the signed records. Either may be absent (no node has
run here yet): the page is then an empty page, not an error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from explorer.export_queries import EXPORT_QUERIES
from explorer.queries import LOG_QUERIES, QUERIES
from spore_borg.errors import IntegrityError

SQL = QUERIES | EXPORT_QUERIES
BUSY_TIMEOUT_S = 2.0  # readers of a WAL database never wait; this is for one copied in another journal mode
MMAP_BYTES = 256 << 20
# What a public mirror shows of the process that runs beside it: the experiment and the verification at work. Never its
# peers (addresses of others), its own address and process, or its ticket.
PUBLIC_LIVE = frozenset(("run", "verify"))


def _connect(path: Path) -> sqlite3.Connection:
    """Open one database read-only. A copy on a read-only disk has no room for a WAL index: then as immutable."""
    for options in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(
            f"file:{quote(str(path.resolve()))}?{options}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA query_only=1")
            connection.execute(f"PRAGMA mmap_size={MMAP_BYTES}")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if "immutable" in options:
                raise
        else:
            connection.row_factory = sqlite3.Row
            return connection
    raise AssertionError("unreachable")


def schema_sql() -> str:
    """The tables of ``views.sqlite`` as SQL."""
    return resources.files("spore_borg.store").joinpath("schema.sql").read_text(encoding="utf-8")


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(schema_sql())
    connection.row_factory = sqlite3.Row
    return connection


class Db:
    """One reader's view of a home directory. Not for use by two threads at once.

    Args:
        home: the directory. public: of the table ``live``, only what strangers may see.
        snapshot_only: nothing of the table ``live``: for what is not looked at while it happens.
    Raises:
        IntegrityError: a file is there but is not a database, or lacks a table of this version.
    """

    def __init__(self, home: Path, *, public: bool = False, snapshot_only: bool = False) -> None:
        self.home = home
        self._live = frozenset[str]() if snapshot_only else PUBLIC_LIVE if public else None
        self.fresh = not (home / "views.sqlite").exists()  # no node has written views here yet
        self._views = _empty() if self.fresh else self._open(home / "views.sqlite")
        self._log: sqlite3.Connection | None = None
        stat = None if self.fresh else (home / "views.sqlite").stat()
        self.identity = (
            None if stat is None else (stat.st_dev, stat.st_ino)
        )  # another file is another history

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                what=path.name,
                detail=str(error),
                hint="Stop the node and run `borg rebuild` (views) or `borg check` (log).",
            ) from error

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection on the views (tests count its steps)."""
        return self._views

    def all(self, name: str, /, **params: object) -> list[sqlite3.Row]:
        """Every row of a named query of :mod:`explorer.queries`."""
        try:
            found = self._views.execute(SQL[name], params).fetchall()
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise
            raise IntegrityError(
                what="views.sqlite",
                detail=f"{error} (query {name})",
                hint="It may come from another version: stop the node and run `borg rebuild`.",
            ) from error
        if name == "live" and self._live is not None:
            return [row for row in found if row["key"] in self._live]
        return found

    def one(self, name: str, /, **params: object) -> sqlite3.Row | None:
        """The first row of a named query, or None."""
        rows = self.all(name, **params)
        return rows[0] if rows else None

    def raw(self, cid: bytes) -> tuple[bytes, int | None] | None:
        """The signed bytes of a record and when they arrived here (ms since 1970), or None."""
        path = self.home / "log.sqlite"
        if self._log is None:
            if not path.exists():
                return None
            self._log = self._open(path)
        row = self._log.execute(LOG_QUERIES["raw"], {"cid": cid}).fetchone()
        return None if row is None else (bytes(row["raw"]), row["received_ms"])

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state of the views, whatever the node writes meanwhile."""
        self._views.execute("BEGIN")
        try:
            yield
        finally:
            self._views.execute("ROLLBACK")

    def close(self) -> None:
        """Close both databases."""
        self._views.close()
        if self._log is not None:
            self._log.close()
