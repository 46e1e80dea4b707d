"""The log: every record this node holds, in one SQLite file to which records are only ever added.

``append`` returns when the records are on the disk: one transaction and one flush a batch. A process killed at any
moment loses nothing that an ``append`` returned for.

**Append first, publish after.** A record of our own leaves the process only after ``append_own`` returned. So if the
process dies between signing and storing, nobody has seen the record that is lost, and signing its number again
is no equivocation; if it dies after storing, the next number follows from the log.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from spore_borg.errors import BorgError, IntegrityError, LocalProtocolError, NotAllowed, NotFound
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record, parse
from spore_borg.records.reasons import Refused
from spore_borg.store.api import HEADS_DEFAULT, Appended, Last
from spore_borg.store.migrations import APPLICATION_ID, SCHEMA_VERSION, migrate

CACHE_RECORDS_MAX = 4_096  # parsed records kept in memory
QUERY_CIDS_MAX = 500  # ids asked for in one query; SQLite takes at least 999 parameters
SCAN_PAGE = 256  # records read at a time by scan, so that no read transaction stays open
BUSY_TIMEOUT_S = 30.0
CID_DIGEST_AT = 4  # a binary CID is four bytes of prefix and a 32-byte digest

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Log:
    """The append-only store of records in one file. Safe to use from several threads; one process writes."""

    def __init__(self, path: Path | str) -> None:
        """Open the log, creating it if there is none.

        Raises:
            IntegrityError: the file is damaged, not a log, or of a newer release.
        """
        self._setup(Path(path), readonly=False)

    @classmethod
    def open_readonly(cls, path: Path | str) -> Log:
        """Open an existing log to read, beside a running node.

        Raises:
            NotFound: there is no log at ``path``.
            IntegrityError: as for ``Log``.
        """
        if not Path(path).is_file():
            raise NotFound(what="log", name=str(path), hint="Start a node with `borg run`, or give --home.")
        log = cls.__new__(cls)
        log._setup(Path(path), readonly=True)
        return log

    def _setup(self, path: Path, *, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._lock = threading.RLock()
        self._cache: OrderedDict[Cid, Record] = OrderedDict()
        self._heads: dict[Cid, int] | None = None  # head → seq, oldest first; None: not read yet
        self._version = -1  # PRAGMA data_version under which _heads holds
        with self._guard():
            target = f"{path.absolute().as_uri()}?mode=ro" if readonly else str(path)
            self._db = sqlite3.connect(
                target, uri=readonly, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._guard():
                self._check_identity()
                if not readonly:
                    self._db.execute("PRAGMA journal_mode = WAL")
                    self._db.execute("PRAGMA synchronous = FULL")
                    if self._pragma("user_version") < SCHEMA_VERSION:
                        migrate(self._db)
        except BaseException:
            self._db.close()
            raise

    def _check_identity(self) -> None:
        """Refuse a SQLite file that is not a log, or is newer than this release."""
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        # A log killed during its very first opening has our tables, or none, but no mark yet
        ours = self._pragma("application_id") == APPLICATION_ID or tables <= {
            "_sqlite_migrations",
            "record",
            "parent",
            "meta",
        }
        version = self._pragma("user_version")
        if not ours:
            raise IntegrityError(
                what=str(self.path),
                detail="it is a SQLite file, but not a log of spore-borg",
                hint="Move it away, or choose another directory with --home.",
            )
        if version > SCHEMA_VERSION:
            raise IntegrityError(
                what=str(self.path),
                detail=f"it has schema {version}, newer than schema {SCHEMA_VERSION} of this release",
                hint="Use the release that wrote it, or a newer one.",
            )
        if self.readonly and version < SCHEMA_VERSION:
            raise IntegrityError(
                what=str(self.path),
                detail=f"it has schema {version}, older than schema {SCHEMA_VERSION} of this release",
                hint="Start a node once with `borg run` to bring it up to date.",
            )

    # ---- writing

    def append(self, records: Iterable[Record], received_ms: int = 0) -> list[Appended]:
        """Add records in one transaction; they are on the disk when it returns.

        Args:
            records: parsed records; one already stored, or given twice, is recognised and not stored again.
            received_ms: wall-clock time for display only.
        Returns:
            One ``Appended`` a record, in the order given.
        Raises:
            IntegrityError: the file is damaged. BorgError: it cannot be written (a full disk, say).
        """
        batch = list(records)
        with self._lock, self._guard():
            self._begin()
            try:
                outcome, fresh = self._place(batch)
                self._insert(fresh, received_ms)
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            self._settle(fresh)
        return outcome

    def append_own(self, author: bytes, build: Callable[[Last], Record], received_ms: int = 0) -> Record:
        """Sign and store the author's next record as one step, so that no two get the same seq.

        Publish the record only after this returned (see the module's text).

        Args:
            author: 32-byte public key.
            build: makes the signed record from ``(seq, cid)`` of the author's last one, or from None.
            received_ms: wall-clock time for display only.
        Raises:
            LocalProtocolError: ``build`` made a record of another author, or one whose seq is taken.
        """
        with self._lock, self._guard():
            self._begin()
            try:
                last = self.last_of(author)
                record = build(last)
                if bytes(record.author) != bytes(author) or (last is not None and record.seq <= last[0]):
                    raise LocalProtocolError(detail=f"own record {record.cid} does not follow the last one")
                _, fresh = self._place([record])
                self._insert(fresh, received_ms)
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            self._settle(fresh)
        return record

    def _begin(self) -> None:
        if self.readonly:
            raise LocalProtocolError(detail="this log is open for reading only")
        self._db.execute("BEGIN IMMEDIATE")
        if self._pragma("data_version") != self._version:
            self._heads = None  # another connection has written

    def _rollback(self) -> None:
        self._heads = None
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _place(self, batch: list[Record]) -> tuple[list[Appended], list[tuple[int, Record]]]:
        """Give every new record its seq. Returns the outcomes, and the new records with their seqs."""
        known = self._seqs([record.cid for record in batch])
        next_seq = int(self._one("SELECT coalesce(max(seq), 0) FROM record")) + 1
        outcome: list[Appended] = []
        fresh: list[tuple[int, Record]] = []
        for record in batch:
            seq = known.get(record.cid)
            if seq is None:
                known[record.cid] = seq = next_seq
                next_seq += 1
                fresh.append((seq, record))
                outcome.append(Appended(record.cid, seq, new=True))
            else:
                outcome.append(Appended(record.cid, seq, new=False))
        return outcome, fresh

    def _insert(self, fresh: list[tuple[int, Record]], received_ms: int) -> None:
        self._db.executemany(
            "INSERT INTO record (seq, cid, kind, author, aseq, epoch, raw, received_ms) VALUES (?,?,?,?,?,?,?,?)",
            [
                (seq, bytes(r.cid), r.kind, bytes(r.author), r.seq, r.epoch, r.raw, received_ms)
                for seq, r in fresh
            ],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO parent (parent_cid, child_seq) VALUES (?,?)",
            [(bytes(parent), seq) for seq, record in fresh for parent in record.past()],
        )

    def _settle(self, fresh: list[tuple[int, Record]]) -> None:
        """Bring what is kept in memory up to what was just committed."""
        for _, record in fresh:
            self._remember(record)
        if self._heads is None:
            return
        for seq, record in fresh:
            for parent in record.past():
                self._heads.pop(parent, None)
            if not self._is_named(record.cid):
                self._heads[record.cid] = seq
        self._version = self._pragma("data_version")

    # ---- reading

    def get(self, cid: Cid) -> Record | None:
        """The record of this id, or None.

        Raises:
            IntegrityError: what is stored under this id is not that record.
        """
        with self._lock:
            cached = self._cache.get(cid)
            if cached is not None:
                self._cache.move_to_end(cid)
                return cached
            raw = self.raw(cid)
            return None if raw is None else self._parsed(cid, raw)

    def raw(self, cid: Cid) -> bytes | None:
        """The canonical bytes of the record of this id, or None."""
        row = self._row("SELECT raw FROM record WHERE cid = ?", (bytes(cid),))
        return None if row is None else bytes(row[0])

    def has(self, cid: Cid) -> bool:
        """Whether the record of this id is stored."""
        return (
            cid in self._cache or self._row("SELECT 1 FROM record WHERE cid = ?", (bytes(cid),)) is not None
        )

    def seq_of(self, cid: Cid) -> int | None:
        """The place of a record in the log (from 1, in order of arrival), or None."""
        return self._seqs([cid]).get(cid)

    def missing(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of ``cids`` that are not stored, in the order given."""
        known = self._seqs(cids)
        return [cid for cid in cids if cid not in known]

    def scan(self, after_seq: int = 0, limit: int | None = None) -> Iterator[tuple[int, Record]]:
        """Every record after ``after_seq`` in order of arrival, as (seq, record).

        Records appended while the scan is under way are seen by it.
        """
        left = limit
        while left is None or left > 0:
            page = SCAN_PAGE if left is None else min(SCAN_PAGE, left)
            rows = self._rows(
                "SELECT seq, cid, raw FROM record WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, page)
            )
            for seq, cid, raw in rows:
                yield int(seq), self._parsed(Cid(cid), raw)
            if len(rows) < page:
                return
            after_seq = int(rows[-1][0])
            left = None if left is None else left - len(rows)

    def keys(self) -> Iterator[tuple[int, bytes]]:
        """(epoch, 32-byte digest) of every record, ordered: the keys of range reconciliation."""
        at = CID_DIGEST_AT
        return iter(
            [
                (int(epoch), cid[at:])
                for epoch, cid in self._rows("SELECT epoch, cid FROM record ORDER BY epoch, cid")
            ]
        )

    def children(self, cid: Cid) -> list[Cid]:
        """Records that name this one as seen, in order of arrival."""
        rows = self._rows(
            "SELECT r.cid FROM parent p JOIN record r ON r.seq = p.child_seq WHERE p.parent_cid = ?"
            " ORDER BY p.child_seq",
            (bytes(cid),),
        )
        return [Cid(row[0]) for row in rows]

    def count(self) -> int:
        """How many records are stored."""
        # Nothing is ever removed and seqs have no gaps, so that the last seq is the count
        return int(self._one("SELECT coalesce(max(seq), 0) FROM record"))

    def last_of(self, author: bytes) -> Last:
        """The author's record with the highest seq, as (seq, cid); None before the first."""
        row = self._row(
            "SELECT aseq, cid FROM record WHERE author = ? ORDER BY aseq DESC, seq LIMIT 1", (bytes(author),)
        )
        return None if row is None else (int(row[0]), Cid(row[1]))

    def heads(self, limit: int = HEADS_DEFAULT) -> list[Cid]:
        """Records that no other names as seen (as parent, or as ``prev``), newest first, at most ``limit``."""
        with self._lock:
            version = self._pragma("data_version")
            if self._heads is None or version != self._version:
                rows = self._rows(
                    "SELECT cid, seq FROM record r WHERE NOT EXISTS"
                    " (SELECT 1 FROM parent p WHERE p.parent_cid = r.cid) ORDER BY seq"
                )
                self._heads = {Cid(cid): int(seq) for cid, seq in rows}
                self._version = version
            newest = list(reversed(self._heads))
            return newest[:limit]

    def max_epoch(self) -> int:
        """The highest epoch of any record; 0 for an empty log."""
        return int(self._one("SELECT coalesce(max(epoch), 0) FROM record"))

    def data_version(self) -> int:
        """A number that grows whenever the log has grown, in this process or another."""
        return self.count()

    def meta(self, key: str) -> str | None:
        """A fact about the log itself (the mesh it belongs to, say), or None."""
        row = self._row("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the log itself; durable when it returns."""
        with self._lock, self._guard():
            self._begin()
            try:
                self._db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?,?)", (key, value))
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise

    def check(self) -> int:
        """Read every record back, and let SQLite check the file. Returns how many records were read.

        Raises:
            IntegrityError: the file, a record, or a link to a parent is damaged.
        """
        problems = [str(row[0]) for row in self._rows("PRAGMA integrity_check")]
        if problems != ["ok"]:
            raise self._damaged(problems[0])
        read = 0
        for seq, record in self.scan():
            read += 1
            if seq != read:
                raise self._damaged(f"record {read} is not there")
            if any(not self.has(parent) for parent in record.past()):
                raise self._damaged(f"record {record.cid} names a parent that is not there")
        return read

    # ---- inside

    def _parsed(self, cid: Cid, raw: bytes) -> Record:
        cached = self._cache.get(cid)
        if cached is not None:
            return cached
        if Cid.of(raw) != cid:
            raise self._damaged(f"the bytes of record {cid} have changed")
        try:
            record = parse(raw, trusted=True)  # it was checked in full before it was stored
        except (
            Refused
        ) as refused:  # the bytes are whole, so a release stored them whose records have another form
            raise NotAllowed(
                detail=f"{self.path} was written by another release, and this one cannot read its records "
                f"(record {cid}: {refused.code}). Nothing is changed. Use that release, or begin anew with --home DIR."
            ) from refused
        self._remember(record)
        return record

    def _remember(self, record: Record) -> None:
        with self._lock:
            self._cache[record.cid] = record
            while len(self._cache) > CACHE_RECORDS_MAX:
                self._cache.popitem(last=False)

    def _is_named(self, cid: Cid) -> bool:
        return self._row("SELECT 1 FROM parent WHERE parent_cid = ? LIMIT 1", (bytes(cid),)) is not None

    def _seqs(self, cids: Sequence[Cid]) -> dict[Cid, int]:
        """The seqs of those ids that are stored."""
        found: dict[Cid, int] = {}
        for start in range(0, len(cids), QUERY_CIDS_MAX):
            part = [bytes(cid) for cid in cids[start : start + QUERY_CIDS_MAX]]
            marks = ",".join("?" * len(part))
            rows = self._rows(f"SELECT cid, seq FROM record WHERE cid IN ({marks})", part)  # noqa: S608 marks only
            found.update((Cid(cid), int(seq)) for cid, seq in rows)
        return found

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._guard():
            return self._db.execute(sql, parameters).fetchall()

    def _row(self, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        rows = self._rows(sql, parameters)
        return rows[0] if rows else None

    def _one(self, sql: str) -> Any:
        return self._rows(sql)[0][0]

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _damaged(self, detail: str) -> IntegrityError:
        return IntegrityError(
            what=str(self.path),
            detail=detail,
            hint="Stop the node and move the file away: a new log is filled again from the peers. "
            "Own records that no peer has are only in the old file, so keep it.",
        )

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _DAMAGED:
                raise self._damaged(str(error)) from error
            if isinstance(error, sqlite3.OperationalError):
                raise BorgError(
                    detail=f"{self.path} cannot be used: {error}. Check its disk space and permissions, and "
                    "that no other process holds it."
                ) from error
            raise

    def close(self) -> None:
        """Close the file; what was appended stays."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
