"""A store in memory with records that are only epoch, parents and payload: for simulation and wire tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from spore_borg.protocol.events import Offered, Status
from spore_borg.records.canonical import decode, encode
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import Refused

FUTURE_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class ToyRecord:
    """A record without author and signature."""

    epoch: int
    parents: tuple[Cid, ...]
    payload: bytes

    @property
    def raw(self) -> bytes:
        """Canonical bytes."""
        return encode([self.epoch, list(self.parents), self.payload])

    @property
    def cid(self) -> Cid:
        """Its id."""
        return Cid.of(self.raw)


class ToyStore:
    """Both the index and the sink of a node. ``epoch``: its clock."""

    def __init__(self, records: Iterable[ToyRecord] = (), epoch: int = 1 << 40) -> None:
        self.epoch = epoch
        self.records: dict[Cid, tuple[int, bytes, int]] = {}
        self.bodies = 0  # record bodies offered, with repetitions
        for record in records:
            self.put(record)

    def put(self, record: ToyRecord) -> ToyRecord:
        """Keep a record."""
        self.records[record.cid] = (record.epoch, record.raw, len(self.records))
        return record

    def has(self, cid: Cid) -> bool:
        """Whether it is here."""
        return cid in self.records

    def missing(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those that are not here."""
        return [cid for cid in cids if cid not in self.records]

    def raw(self, cid: Cid) -> bytes | None:
        """A record's bytes."""
        found = self.records.get(cid)
        return None if found is None else found[1]

    def seq_of(self, cid: Cid) -> int | None:
        """Its place in the order of arrival."""
        found = self.records.get(cid)
        return None if found is None else found[2]

    def keys(self) -> Iterator[tuple[int, bytes]]:
        """(epoch, digest) of all."""
        return ((epoch, cid.digest) for cid, (epoch, _, _) in self.records.items())

    def judge(self, raw: bytes) -> Offered:
        """Take one record, or say why not."""
        self.bodies += 1
        cid = Cid.of(raw)
        if cid in self.records:
            return Offered(cid, Status.KNOWN, epoch=self.records[cid][0])
        try:
            epoch, parents, _ = decode(raw)
        except (Refused, ValueError, TypeError):
            return Offered(cid, Status.REFUSED, code="not-cbor", offence=True)
        if type(epoch) is not int or epoch < 0:
            return Offered(cid, Status.REFUSED, code="shape", offence=True)
        if epoch > self.epoch + FUTURE_EPOCHS:
            return Offered(cid, Status.NOT_YET)
        lacks = tuple(parent for parent in parents if parent not in self.records)
        if lacks:
            return Offered(cid, Status.MISSING, parents=lacks)
        self.records[cid] = (epoch, raw, len(self.records))
        return Offered(cid, Status.STORED, epoch=epoch)

    async def offer(self, raws: list[bytes], source: bytes) -> list[Offered]:
        """The sink."""
        del source
        return [self.judge(raw) for raw in raws]


def chain(count: int, per_epoch: int = 100, size_bytes: int = 500, seed: int = 0) -> list[ToyRecord]:
    """``count`` records in a DAG like a real mesh's: each names one or two recent ones."""
    from random import Random

    rng = Random(seed)
    records: list[ToyRecord] = []
    cids: list[Cid] = []
    for number in range(count):
        recent = cids[-20:]
        parents = tuple(sorted(set(rng.sample(recent, k=min(len(recent), 2)))))
        overhead = 10 + 41 * len(parents)
        record = ToyRecord(number // per_epoch, parents, rng.randbytes(max(8, size_bytes - overhead)))
        records.append(record)
        cids.append(record.cid)
    return records
