"""A twin of ``log.Log`` without a disk: for simulations, and to test the log against something simple."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from spore_borg.errors import LocalProtocolError
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.store.api import HEADS_DEFAULT, Appended, Last


class MemoryLog:
    """The append-only store of records in a list. Same answers as ``Log``."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._seqs: dict[Cid, int] = {}
        self._named: dict[Cid, list[Cid]] = {}  # parent → its children
        self._heads: dict[Cid, int] = {}
        self._last: dict[bytes, tuple[int, Cid]] = {}
        self._meta: dict[str, str] = {}
        self._max_epoch = 0

    def append(self, records: Iterable[Record], received_ms: int = 0) -> list[Appended]:
        """Add records; see ``Log.append``."""
        return [self._append_one(record) for record in list(records)]

    def _append_one(self, record: Record) -> Appended:
        seq = self._seqs.get(record.cid)
        if seq is not None:
            return Appended(record.cid, seq, new=False)
        self._records.append(record)
        seq = self._seqs[record.cid] = len(self._records)
        for parent in record.past():
            self._heads.pop(parent, None)
            self._named.setdefault(parent, []).append(record.cid)
        if record.cid not in self._named:
            self._heads[record.cid] = seq
        last = self._last.get(record.author)
        if last is None or record.seq > last[0]:
            self._last[record.author] = (record.seq, record.cid)
        self._max_epoch = max(self._max_epoch, record.epoch)
        return Appended(record.cid, seq, new=True)

    def append_own(self, author: bytes, build: Callable[[Last], Record], received_ms: int = 0) -> Record:
        """Sign and store the author's next record; see ``Log.append_own``."""
        last = self.last_of(author)
        record = build(last)
        if bytes(record.author) != bytes(author) or (last is not None and record.seq <= last[0]):
            raise LocalProtocolError(detail=f"own record {record.cid} does not follow the last one")
        self._append_one(record)
        return record

    def get(self, cid: Cid) -> Record | None:
        """The record of this id, or None."""
        seq = self._seqs.get(cid)
        return None if seq is None else self._records[seq - 1]

    def raw(self, cid: Cid) -> bytes | None:
        """The canonical bytes of the record of this id, or None."""
        record = self.get(cid)
        return None if record is None else record.raw

    def has(self, cid: Cid) -> bool:
        """Whether the record of this id is stored."""
        return cid in self._seqs

    def seq_of(self, cid: Cid) -> int | None:
        """The place of a record in the log (from 1, in order of arrival), or None."""
        return self._seqs.get(cid)

    def missing(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of ``cids`` that are not stored, in the order given."""
        return [cid for cid in cids if cid not in self._seqs]

    def scan(self, after_seq: int = 0, limit: int | None = None) -> Iterator[tuple[int, Record]]:
        """Every record after ``after_seq`` in order of arrival, as (seq, record)."""

        def tail() -> Iterator[tuple[int, Record]]:
            seq = after_seq
            while seq < len(self._records):
                seq += 1
                yield seq, self._records[seq - 1]

        return islice(tail(), limit)

    def keys(self) -> Iterator[tuple[int, bytes]]:
        """(epoch, 32-byte digest) of every record, ordered."""
        return iter(sorted((record.epoch, bytes(record.cid.digest)) for record in self._records))

    def children(self, cid: Cid) -> list[Cid]:
        """Records that name this one as seen, in order of arrival."""
        return list(self._named.get(cid, ()))

    def count(self) -> int:
        """How many records are stored."""
        return len(self._records)

    def last_of(self, author: bytes) -> Last:
        """The author's record with the highest seq, as (seq, cid); None before the first."""
        return self._last.get(bytes(author))

    def heads(self, limit: int = HEADS_DEFAULT) -> list[Cid]:
        """Records that no other names as seen (as parent, or as ``prev``), newest first, at most ``limit``."""
        return list(islice(reversed(self._heads), limit))

    def max_epoch(self) -> int:
        """The highest epoch of any record; 0 for an empty store."""
        return self._max_epoch

    def data_version(self) -> int:
        """A number that grows whenever the store has grown."""
        return len(self._records)

    def meta(self, key: str) -> str | None:
        """A fact about the store itself, or None."""
        return self._meta.get(key)

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the store itself."""
        self._meta[key] = value
