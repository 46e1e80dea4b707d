"""Records that wait for their parents: held back, bounded per peer, oldest given up first."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from spore_borg.limits import ORPHANS_PER_PEER_MAX
from spore_borg.protocol.events import NodeId
from spore_borg.records.cid import Cid

ORPHAN_BYTES_PER_PEER_MAX = 16 << 20


@dataclass(slots=True)
class Orphan:
    """A record and the parents that it still lacks."""

    cid: Cid
    raw: bytes
    source: NodeId
    lacks: set[Cid]
    live: bool  # news, to be pushed on once it is stored


class Orphans:
    """The pool of held-back records."""

    def __init__(self) -> None:
        self._pool: dict[Cid, Orphan] = {}
        self._waiting: dict[Cid, set[Cid]] = {}
        self._by_peer: dict[NodeId, OrderedDict[Cid, None]] = {}
        self._bytes: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._pool)

    def __contains__(self, cid: Cid) -> bool:
        return cid in self._pool

    def add(self, orphan: Orphan) -> None:
        """Hold a record back until what it ``lacks`` is here; may push out this peer's oldest."""
        cid, raw, source = orphan.cid, orphan.raw, orphan.source
        self.remove(cid)
        self._pool[cid] = orphan
        for parent in orphan.lacks:
            self._waiting.setdefault(parent, set()).add(cid)
        mine = self._by_peer.setdefault(source, OrderedDict())
        mine[cid] = None
        self._bytes[source] = self._bytes.get(source, 0) + len(raw)
        while len(mine) > ORPHANS_PER_PEER_MAX or self._bytes[source] > ORPHAN_BYTES_PER_PEER_MAX:
            self.remove(next(iter(mine)))

    def remove(self, cid: Cid) -> Orphan | None:
        """Take a record out of the pool."""
        orphan = self._pool.pop(cid, None)
        if orphan is None:
            return None
        for parent in list(orphan.lacks):
            self._met(orphan, parent)
        mine = self._by_peer[orphan.source]
        del mine[cid]
        self._bytes[orphan.source] -= len(orphan.raw)
        return orphan

    def release(self, arrived: Cid, source: NodeId | None = None) -> list[Orphan]:
        """A record is here: take out those that lack nothing else, and those that lacked only these.

        Args:
            arrived: the record.
            source: only orphans of this peer; None: of all.
        Returns:
            Parents before children.
        """
        free: list[Orphan] = []
        todo = deque([arrived])
        while todo:
            parent = todo.popleft()
            for cid in sorted(self._waiting.get(parent, ())):
                orphan = self._pool[cid]
                if source is not None and orphan.source != source:
                    continue
                self._met(orphan, parent)
                if not orphan.lacks:
                    self.remove(cid)
                    free.append(orphan)
                    todo.append(cid)
        return free

    def _met(self, orphan: Orphan, parent: Cid) -> None:
        """An orphan does not lack this parent any more."""
        orphan.lacks.discard(parent)
        waiting = self._waiting[parent]
        waiting.discard(orphan.cid)
        if not waiting:
            del self._waiting[parent]

    def refuse(self, parent: Cid) -> list[Cid]:
        """A record is void: so are all that name it, and those that name them. Returns their ids."""
        void: list[Cid] = []
        todo = [parent]
        while todo:
            for cid in sorted(self._waiting.get(todo.pop(), ())):
                self.remove(cid)
                void.append(cid)
                todo.append(cid)
        return void

    def drop_peer(self, peer: NodeId) -> None:
        """Forget what a peer that is gone had sent."""
        for cid in list(self._by_peer.get(peer, ())):
            self.remove(cid)
        self._by_peer.pop(peer, None)
        self._bytes.pop(peer, None)
