"""What the core remembers of one connected peer."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from spore_borg.protocol.events import NodeId
from spore_borg.protocol.messages import Hello
from spore_borg.protocol.serving import Serving
from spore_borg.records.cid import Cid

SEEN_MAX = 2_048  # ids remembered of each peer, to not send it what it has


class Recent:
    """A bounded set that forgets its oldest members."""

    __slots__ = ("_items", "_max")

    def __init__(self, size_max: int) -> None:
        self._items: OrderedDict[Cid, float] = OrderedDict()
        self._max = size_max

    def add(self, cid: Cid, until_s: float = float("inf")) -> None:
        """Remember an id, until a time or until it is pushed out."""
        self._items[cid] = until_s
        while len(self._items) > self._max:
            self._items.popitem(last=False)

    def holds(self, cid: Cid, now_s: float = 0.0) -> bool:
        """Whether the id is remembered at this time."""
        return self._items.get(cid, -1.0) > now_s


@dataclass(slots=True)
class Session:
    """A reconciliation that we began."""

    number: int
    key: bytes
    round: int
    deadline_s: float
    progress: bool = False
    waiting: bytes | None = None  # the next message, held back until what is wanted has arrived


@dataclass(slots=True)
class Peer:
    """What the core knows of one connected peer."""

    id: NodeId
    dialed: bool
    host: str
    nonce: bytes  # ours
    hello: Hello | None = None  # theirs; None until it arrives
    eager: bool = True
    session: Session | None = None
    serving: Serving = field(default_factory=Serving)
    seen: Recent = field(default_factory=lambda: Recent(SEEN_MAX))
    announce: list[Cid] = field(default_factory=list)  # lazily, with the next tick
    heard: deque[tuple[float, Cid]] = field(
        default_factory=deque
    )  # announced to us: graft if not here by then
    again: bool = False  # the last reconciliation ended with more to do
    rejected: int = 0
    synced_s: float | None = None
