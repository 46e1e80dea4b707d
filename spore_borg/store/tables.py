"""``views.sqlite``: what the folds say, as tables that the pages and commands read.

The file is worth nothing: it may be deleted at any time and is built again from the log. So it is thrown away whenever
it is damaged, or was made by another version of ``schema.sql``. One process writes; readers see whole versions only.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

from spore_borg.errors import BorgError, NotFound

Row = Mapping[str, Any]  # column → value; a column left out is NULL
Key = tuple[Any, ...]  # the primary key's values
Rows = dict[Key, tuple[Any, ...]]  # key → every value, in the order of the columns

BUSY_TIMEOUT_S = 10.0
SEARCH_WORDS_MAX = 8  # of what a person typed
_OWN = frozenset(("live", "search"))  # not written through ``publish``
_SEARCH_COLUMNS = ("rowid", "title", "why", "changed", "author", "cid")


@cache
def schema_sql() -> str:
    """The text of ``schema.sql``."""
    return resources.files("spore_borg.store").joinpath("schema.sql").read_text(encoding="utf-8")


@cache
def schema_version() -> int:
    """31 bits of the schema's digest: any change of the schema is another version."""
    return int.from_bytes(hashlib.sha256(schema_sql().encode()).digest()[:4], "big") >> 1


def search_query(text: str) -> str:
    """What a person typed, as a query for the ``search`` table: every word (the first eight) as a quoted prefix.

    FTS5's own syntax is not passed through, so that no text is a syntax error. Empty text gives an empty query,
    which must not be sent.
    """
    words = text.replace("\0", " ").split()[:SEARCH_WORDS_MAX]
    return " ".join('"' + word.replace('"', '""') + '"*' for word in words)


class Tables:
    """The one writer of ``views.sqlite``."""

    def __init__(self, path: Path | str) -> None:
        """Open the tables; create them anew if there are none, or if they are damaged or of another version.

        Raises:
            BorgError: the file cannot be written.
        """
        self.path = Path(path)
        self._lock = threading.RLock()
        self.rebuilt = False  # True: the tables are new and empty, publish everything
        with self._guard():
            self._db = self._open()
            self._columns, self._keys = _layout(self._db)
            self._written: dict[str, Rows] = {table: self._read(table) for table in self._columns}
            self._version = int(self._meta("version") or 0)

    def _open(self) -> sqlite3.Connection:
        if self.path.exists():
            db = self._connect()
            try:
                if db.execute("PRAGMA user_version").fetchone()[0] == schema_version():
                    db.execute("SELECT count(*) FROM meta").fetchone()
                    return db
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    db.close()
                    raise  # locked, or no disk space: that is no reason to throw the file away
            db.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.rebuilt = True
        db = self._connect()
        db.executescript(schema_sql())
        db.execute(f"PRAGMA user_version = {schema_version()}")  # last, so that a kill leaves another version
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(
                "PRAGMA synchronous = NORMAL"
            )  # never torn; a version lost with the power is built again
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                db.close()
                raise
        return db

    @staticmethod
    def open_readonly(path: Path | str) -> sqlite3.Connection:
        """A connection to read with, rows by name. Raises ``NotFound`` if no node has run here yet."""
        file = Path(path)
        if not file.is_file():
            raise NotFound(
                what="view", name=str(file), hint="Start a node with `borg run`, or use `borg rebuild`."
            )
        db = sqlite3.connect(
            f"{file.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA query_only = ON")
        return db

    # ---- writing

    def publish(self, view_rows: Mapping[str, Iterable[Row]]) -> int:
        """Write a view: the given tables become exactly these rows, in one transaction.

        Only rows that changed since the last version are touched; ``search`` follows ``record`` and ``experiment``;
        tables not named stay as they are. Of ``meta`` the key ``version`` is ours.

        Args:
            view_rows: table → rows. Dicts and lists among the values are stored as JSON.
        Returns:
            The version of the tables: the last one plus one if anything changed.
        Raises:
            ValueError: an unknown table or column, or a primary key given twice.
        """
        wanted = {table: self._tuples(table, rows) for table, rows in view_rows.items()}
        with self._lock, self._guard():
            if {"record", "experiment"} & wanted.keys():
                merged = {**self._written, **wanted}
                wanted["search"] = self._search_rows(merged["record"], merged["experiment"])
            changed = {table: rows for table, rows in wanted.items() if rows != self._written[table]}
            if not changed:
                return self._version
            version = self._version + 1
            with self._transaction():
                for table, rows in changed.items():
                    self._apply(table, rows)
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('version', ?)", (str(version),))
            self._written.update(changed)
            self._version = version
            return version

    def replace_rows(self, table: str, rows: Mapping[Key, tuple[Any, ...]]) -> int:
        """Make one table exactly these rows: primary key → all values in the order of the columns.

        For callers that have tuples already; otherwise as ``publish``. Returns the version.
        """
        names = self._columns_of(table)
        for key, values in rows.items():
            if len(values) != len(names) or tuple(values[at] for at in self._keys[table]) != key:
                raise ValueError(f"{table}: {key!r} does not fit its row")
        return self.publish({table: [dict(zip(names, values, strict=True)) for values in rows.values()]})

    def set_live(self, key: str, value: Any) -> None:
        """What this process does now (see ``live`` in schema.sql), as JSON, in a small transaction of its own.

        The version stays: ``live`` is no view. None removes the key.
        """
        with self._lock, self._guard(), self._transaction():
            if value is None:
                self._db.execute("DELETE FROM live WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO live VALUES (?, ?)", (key, _json(value)))

    @property
    def version(self) -> int:
        """The version last published; 0 for new tables."""
        return self._version

    # ---- inside

    def _columns_of(self, table: str) -> tuple[str, ...]:
        if table in _OWN or table not in self._columns:
            raise ValueError(f"no table {table} to publish")
        return self._columns[table]

    def _tuples(self, table: str, rows: Iterable[Row]) -> Rows:
        names, keys = self._columns_of(table), self._keys[table]
        known = set(names)
        out: Rows = {}
        for row in rows:
            if not row.keys() <= known:
                raise ValueError(f"{table} has no column {', '.join(sorted(row.keys() - known))}")
            values = tuple([_plain(row.get(name)) for name in names])
            key = tuple([values[at] for at in keys])
            if key in out:
                raise ValueError(f"{table} has two rows {key!r}")
            out[key] = values
        if table == "meta":
            out.pop(("version",), None)
        return out

    def _search_rows(self, record: Rows, experiment: Rows) -> Rows:
        title_at = self._columns["record"].index("title")
        names = self._columns["experiment"]
        at = [names.index(name) for name in ("seq", "why", "changed", "author", "cid")]
        out: Rows = {}
        for key, values in experiment.items():
            seq, why, changed, author, cid = [values[index] for index in at]
            known = record.get((seq,))
            out[key] = (seq, known[title_at] if known else "", why, changed, author, cid)
        return out

    def _apply(self, table: str, rows: Rows) -> None:
        """Delete what went or changed, then insert what came or changed: so that no unique value is there twice."""
        before = self._written[table]
        stale = [key for key, values in before.items() if rows.get(key) != values]
        fresh = [values for key, values in rows.items() if before.get(key) != values]
        names = self._columns[table]
        where = " AND ".join(f"{names[at]} = ?" for at in self._keys[table])
        marks = ",".join("?" * len(names))
        self._db.executemany(f"DELETE FROM {table} WHERE {where}", stale)  # noqa: S608 names of our own schema
        self._db.executemany(f"INSERT INTO {table} ({','.join(names)}) VALUES ({marks})", fresh)  # noqa: S608

    def _read(self, table: str) -> Rows:
        names, keys = self._columns[table], self._keys[table]
        rows = self._db.execute(f"SELECT {','.join(names)} FROM {table}")  # noqa: S608 names of our own schema
        out = {tuple([row[at] for at in keys]): row for row in rows}
        if table == "meta":
            out.pop(("version",), None)
        return out

    def _meta(self, key: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise BorgError(
                detail=f"{self.path} cannot be used: {error}. Check its disk space and permissions, and that no "
                "other process holds it."
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _layout(db: sqlite3.Connection) -> tuple[dict[str, tuple[str, ...]], dict[str, Sequence[int]]]:
    """Columns of every table that views fill, and where its primary key stands among them."""
    listed = db.execute("PRAGMA table_list").fetchall()
    names = [name for schema, name, kind, *_ in listed if schema == "main" and kind == "table"]
    columns: dict[str, tuple[str, ...]] = {"search": _SEARCH_COLUMNS}
    keys: dict[str, Sequence[int]] = {"search": (0,)}
    for name in names:
        if name.startswith("sqlite_") or name == "live":
            continue
        info = db.execute(f"PRAGMA table_info({name})").fetchall()
        columns[name] = tuple(row[1] for row in info)
        keys[name] = [place for _, place in sorted((row[5], row[0]) for row in info if row[5])]
    return columns, keys


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(value: Any) -> Any:
    """A value as SQLite takes and returns it."""
    if value is None or type(value) in (str, int):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, dict | list | tuple):
        return _json(value)
    raise ValueError(f"a {type(value).__name__} does not fit into a table")
