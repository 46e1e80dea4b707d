"""Which records are wanted, who holds them, and who has been asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from spore_borg.limits import WANT_CIDS_MAX, WANT_RETRY_S
from spore_borg.protocol.events import NodeId
from spore_borg.protocol.messages import Want
from spore_borg.records.cid import Cid

WANTS_MAX = 65_536  # ids wanted at once; what is over it is found again by reconciliation
HOLDERS_MAX = 8  # peers remembered for one wanted id
REQUESTS_MAX = 2  # requests under way per peer


@dataclass(slots=True)
class _Wanted:
    holders: list[NodeId] = field(default_factory=list)
    asked: NodeId | None = None


@dataclass(slots=True)
class _Request:
    cids: set[Cid]
    live: bool  # grafted: the records are news, to be pushed on
    deadline_s: float


@dataclass(slots=True)
class _Holder:
    todo: deque[tuple[Cid, bool]] = field(default_factory=deque)  # (id, graft)
    requests: dict[int, _Request] = field(default_factory=dict)


class Wants:
    """The table of wanted records. An unanswered request goes to another holder."""

    def __init__(self) -> None:
        self._wanted: dict[Cid, _Wanted] = {}
        self._peers: dict[NodeId, _Holder] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, cid: Cid) -> bool:
        return cid in self._wanted

    def backlog(self, peer: NodeId) -> int:
        """Ids that wait for this peer or were asked of it."""
        holder = self._peers.get(peer)
        if holder is None:
            return 0
        return len(holder.todo) + sum(len(request.cids) for request in holder.requests.values())

    def add_peer(self, peer: NodeId) -> None:
        """A peer that can be asked from now on."""
        self._peers[peer] = _Holder()

    def remove_peer(self, peer: NodeId) -> None:
        """A peer is gone; what it was asked for goes to other holders."""
        holder = self._peers.pop(peer, None)
        if holder is None:
            return
        waiting = [cid for cid, _ in holder.todo]
        for request in holder.requests.values():
            waiting += request.cids
        for cid in waiting:
            self._elsewhere(cid, peer)

    def add(self, peer: NodeId, cids: Iterable[Cid], *, graft: bool = False) -> None:
        """A peer holds these, and they are not here."""
        holder = self._peers.get(peer)
        if holder is None:
            return
        for cid in cids:
            wanted = self._wanted.get(cid)
            if wanted is None:
                if len(self._wanted) >= WANTS_MAX:
                    return
                wanted = self._wanted[cid] = _Wanted()
            if peer in wanted.holders or len(wanted.holders) >= HOLDERS_MAX:
                continue
            wanted.holders.append(peer)
            holder.todo.append((cid, graft))

    def done(self, cid: Cid) -> None:
        """The record arrived, or is not wanted any more."""
        self._wanted.pop(cid, None)

    def requests(self, peer: NodeId, now_s: float) -> list[Want]:
        """The requests that may be sent to this peer now."""
        holder = self._peers.get(peer)
        found: list[Want] = []
        while holder is not None and holder.todo and len(holder.requests) < REQUESTS_MAX:
            cids: list[Cid] = []
            graft = False
            while holder.todo and len(cids) < WANT_CIDS_MAX:
                cid, live = holder.todo.popleft()
                wanted = self._wanted.get(cid)
                if wanted is None or wanted.asked is not None:
                    continue  # here already, or asked of somebody else, who brings it back if he fails
                wanted.asked = peer
                cids.append(cid)
                graft = graft or live
            if cids:
                self._number += 1
                holder.requests[self._number] = _Request(set(cids), graft, now_s + WANT_RETRY_S)
                found.append(Want(self._number, graft, tuple(cids)))
        return found

    def answered(
        self, peer: NodeId, number: int, cids: Iterable[Cid], *, last: bool, now_s: float
    ) -> bool | None:
        """Take a part of an answer. None: no such request; else whether its records are news."""
        holder = self._peers.get(peer)
        request = holder.requests.get(number) if holder is not None else None
        if holder is None or request is None:
            return None
        got = request.cids.intersection(cids)
        request.cids -= got
        if got:
            request.deadline_s = now_s + WANT_RETRY_S
        if last:
            del holder.requests[number]
            for cid in request.cids:
                self._elsewhere(cid, peer)
        return request.live

    def expire(self, now_s: float) -> None:
        """Give up requests that nobody answered in time."""
        for peer, holder in list(self._peers.items()):
            for number, request in list(holder.requests.items()):
                if request.deadline_s <= now_s:
                    del holder.requests[number]
                    for cid in request.cids:
                        self._elsewhere(cid, peer)

    def _elsewhere(self, cid: Cid, peer: NodeId) -> None:
        """This peer does not bring the record: ask another holder, or forget that it is wanted."""
        wanted = self._wanted.get(cid)
        if wanted is None:
            return
        if peer in wanted.holders:
            wanted.holders.remove(peer)
        if wanted.asked == peer:
            wanted.asked = None
        wanted.holders = [other for other in wanted.holders if other in self._peers]
        if not wanted.holders:
            del self._wanted[cid]
        elif wanted.asked is None:
            for other in wanted.holders:
                self._peers[other].todo.append((cid, False))
