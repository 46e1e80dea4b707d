"""The set of records as a graph: closed, ordered, and who has seen what when.

Only records whose whole past is in the set count, so an incomplete set folds to a prefix of the truth.
Source: PROTOCOL, acknowledgement; spec/20-views.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record


class Dag:
    """Records by topological position.

    Attributes:
        records: in an order in which every record follows its past (which order does not matter to any view).
        index: cid → position.
        past: position → positions named as seen.
        depth: position → length of the longest way back to a record without a past: a pure order of creation.
        seals: epoch → author → position of that author's first seal (lowest seq, then lowest cid).
        forks: (author, seq) → positions, where there are several.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: list[Record] = []
        self.index: dict[Cid, int] = {}
        self.past: list[tuple[int, ...]] = []
        self.seals: dict[int, dict[bytes, int]] = defaultdict(dict)
        self.depth: list[int] = []
        self.forks: dict[tuple[bytes, int], list[int]] = {}
        self._at: dict[tuple[bytes, int], int] = {}
        self._waiting: dict[Cid, list[Record]] = defaultdict(list)
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take one record, and every record that waited for it."""
        ready = [record]
        while ready:
            candidate = ready.pop()
            if candidate.cid in self.index:
                continue
            missing = next((cid for cid in candidate.past() if cid not in self.index), None)
            if missing is not None:
                self._waiting[missing].append(candidate)
            elif self._fits(candidate):
                self._place(candidate)
                ready += self._waiting.pop(candidate.cid, ())

    def copy(self) -> Dag:
        """A graph that grows on its own."""
        twin = Dag(())
        twin.records, twin.past, twin.depth = self.records[:], self.past[:], self.depth[:]
        twin.index, twin._at = self.index.copy(), self._at.copy()
        twin.seals.update((epoch, seals.copy()) for epoch, seals in self.seals.items())
        twin.forks = {number: positions[:] for number, positions in self.forks.items()}
        twin._waiting.update((cid, waiting[:]) for cid, waiting in self._waiting.items())
        return twin

    def _fits(self, record: Record) -> bool:
        """The rules of admission once more, so that a view never depends on who admitted a record."""
        if any(self.records[self.index[cid]].epoch > record.epoch for cid in record.past()):
            return False
        if record.prev is None:
            return record.seq == 0
        before = self.records[self.index[record.prev]]
        return before.author == record.author and before.seq + 1 == record.seq

    def _place(self, record: Record) -> None:
        position = len(self.records)
        self.index[record.cid] = position
        self.records.append(record)
        past = tuple(self.index[cid] for cid in record.past())
        self.past.append(past)
        self.depth.append(1 + max((self.depth[at] for at in past), default=-1))
        number = (record.author, record.seq)
        other = self._at.setdefault(number, position)
        if other != position:
            self.forks.setdefault(number, [other]).append(position)
        if record.kind == "seal":
            here = self.seals[record.epoch]
            other_seal = self.records[here[record.author]] if record.author in here else None
            if other_seal is None or (record.seq, record.cid) < (other_seal.seq, other_seal.cid):
                here[record.author] = position


class Reach:
    """What one author's seals have seen so far: grows by each seal, each record is visited once."""

    def __init__(self, dag: Dag) -> None:
        self._dag = dag
        self.seen: set[int] = set()

    def copy(self) -> Reach:
        """The same reach, growing on its own."""
        twin = Reach(self._dag)
        twin.seen = self.seen.copy()
        return twin

    def on(self, dag: Dag) -> None:
        """Go on in a graph that extends the one so far."""
        self._dag = dag

    def extend(self, seal: int) -> list[int]:
        """Mark the past of a seal, and the seal; returns what is new."""
        if seal in self.seen:
            return []
        fresh, stack = [seal], [seal]
        self.seen.add(seal)
        while stack:
            for position in self._dag.past[stack.pop()]:
                if position not in self.seen:
                    self.seen.add(position)
                    fresh.append(position)
                    stack.append(position)
        return fresh
