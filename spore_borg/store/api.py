"""What a store of records promises, whether it lies on a disk (``log``) or only in memory (``memory``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spore_borg.records.cid import Cid
    from spore_borg.records.envelope import Record

HEADS_DEFAULT = 64  # as many as a record may name as parents


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one appended record: its place in the log, and whether it is new here. True when new."""

    cid: Cid
    seq: int
    new: bool

    def __bool__(self) -> bool:
        return self.new


Last = tuple[int, "Cid"] | None  # (seq of the author, cid) of an author's last record; None: none yet


class RecordStore(Protocol):
    """A growing set of records. Nothing is ever changed or removed."""

    def append(self, records: Iterable[Record], received_ms: int = 0) -> list[Appended]:
        """Add records; durable when it returns. Duplicates are told apart, not refused."""
        ...

    def append_own(self, author: bytes, build: Callable[[Last], Record], received_ms: int = 0) -> Record:
        """Build the author's next record from its last one and store it, as one step."""
        ...

    def get(self, cid: Cid) -> Record | None:
        """The record of this id, or None."""
        ...

    def raw(self, cid: Cid) -> bytes | None:
        """The canonical bytes of the record of this id, or None."""
        ...

    def has(self, cid: Cid) -> bool:
        """Whether the record of this id is stored."""
        ...

    def missing(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of ``cids`` that are not stored, in the order given."""
        ...

    def scan(self, after_seq: int = 0, limit: int | None = None) -> Iterator[tuple[int, Record]]:
        """(seq, record) in order of arrival, after ``after_seq``."""
        ...

    def keys(self) -> Iterator[tuple[int, bytes]]:
        """(epoch, 32-byte digest) of every record, ordered: the keys of range reconciliation."""
        ...

    def count(self) -> int:
        """How many records are stored."""
        ...

    def last_of(self, author: bytes) -> Last:
        """The author's record with the highest seq: (seq, cid), or None."""
        ...

    def heads(self, limit: int = HEADS_DEFAULT) -> list[Cid]:
        """Records that no other names as seen (as parent, or as ``prev``), newest first."""
        ...

    def max_epoch(self) -> int:
        """The highest epoch of any record; 0 for an empty store."""
        ...

    def data_version(self) -> int:
        """A number that grows whenever the store has grown."""
        ...
