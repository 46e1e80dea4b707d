"""A deterministic simulator of N protocol cores on a heap of events: delay, loss, duplicates, partitions.

Messages are really encoded and decoded. A lost message ends its connection, as a broken TCP stream would,
and the pair dials again. Same seed, same run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from spore_borg.errors import RemoteProtocolError
from spore_borg.protocol import messages
from spore_borg.protocol.core import TICK_S, Core
from spore_borg.protocol.events import (
    Connected,
    Disconnected,
    Drop,
    Effect,
    Event,
    NodeId,
    Published,
    Received,
    Results,
    Send,
    Sent,
    Store,
    Tick,
)
from spore_borg.protocol.messages import Message, Records
from spore_borg.records.cid import Cid
from spore_borg.sim.toy import ToyRecord, ToyStore

REDIAL_S = 1.0
STORE_S = 0.001  # time from an offer to its result
MESH = Cid.of(b"simulated mesh")


@dataclass(slots=True)
class Traffic:
    """What has crossed the wires."""

    bytes: int = 0
    messages: int = 0
    bodies: int = 0  # record bodies
    by_kind: dict[str, int] = field(default_factory=dict)  # bytes

    def count(self, message: Message, size_bytes: int) -> None:
        """Add one message."""
        self.bytes += size_bytes + 4
        self.messages += 1
        name = type(message).__name__
        self.by_kind[name] = self.by_kind.get(name, 0) + size_bytes + 4
        if isinstance(message, Records):
            self.bodies += len(message.raws)


class Net:
    """N nodes and the wires between them.

    Args:
        stores: one for each node.
        seed: of all chance.
        delay_s: (shortest, longest) time on a wire.
        loss: probability that a message is lost, and its connection with it.
        repeat: probability that a store's offer is made twice (duplicates).
    """

    def __init__(
        self,
        stores: Iterable[ToyStore],
        *,
        seed: int = 0,
        delay_s: tuple[float, float] = (0.01, 0.05),
        loss: float = 0.0,
        repeat: float = 0.0,
    ) -> None:
        self.rng = Random(seed)
        self.now_s = 0.0
        self.delay_s, self.loss, self.repeat = delay_s, loss, repeat
        self.stores = list(stores)
        self.ids = [NodeId(bytes([number + 1]) * 32) for number in range(len(self.stores))]
        self.nodes = {
            id_: Core(id_, MESH, store, Random(seed * 1_000 + number))
            for number, (id_, store) in enumerate(zip(self.ids, self.stores, strict=True))
        }
        self.store_of = dict(zip(self.ids, self.stores, strict=True))
        self.traffic = Traffic()
        self.drops: list[tuple[NodeId, NodeId, str]] = []
        self.links: set[tuple[NodeId, NodeId]] = set()  # (dialer, dialed) that shall stand
        self.up: dict[frozenset[NodeId], int] = {}  # standing connections and their number
        self.cut: Callable[[NodeId, NodeId], bool] = lambda _a, _b: False
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._arrives: dict[tuple[NodeId, NodeId], float] = {}
        for id_ in self.ids:
            self._tick(id_)

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self._count += 1
        heapq.heappush(self._heap, (self.now_s + delay_s, self._count, action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Advance the time; True as soon as ``until`` holds."""
        end_s = self.now_s + seconds
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(self._heap)
            action()
            if until():
                return True
        self.now_s = end_s
        return until()

    # --- what may be done to it ---------------------------------------------------------------------------

    def connect(self, a: int, b: int) -> None:
        """Node ``a`` dials node ``b``, and dials again whenever that ends."""
        self.links.add((self.ids[a], self.ids[b]))
        self._dial(self.ids[a], self.ids[b])

    def connect_all(self) -> None:
        """Every pair."""
        for a in range(len(self.ids)):
            for b in range(a + 1, len(self.ids)):
                self.connect(a, b)

    def publish(self, node: int, record: ToyRecord) -> None:
        """A node makes a record of its own."""
        self.stores[node].put(record)
        self._step(self.ids[node], Published(record.cid, record.epoch, record.raw))

    def partition(self, group: set[int]) -> None:
        """Cut all wires between a group and the others; an empty group heals."""
        inside = {self.ids[number] for number in group}
        self.cut = lambda a, b: (a in inside) != (b in inside)
        for pair in list(self.up):
            a, b = sorted(pair)
            if self.cut(a, b):
                self._break(a, b)

    def converged(self) -> bool:
        """Whether all nodes hold the same records."""
        first = self.stores[0].records.keys()
        return all(store.records.keys() == first for store in self.stores[1:])

    # --- inside -------------------------------------------------------------------------------------------

    def _tick(self, id_: NodeId) -> None:
        self._step(id_, Tick())
        self.at(TICK_S * self.rng.uniform(0.9, 1.1), lambda: self._tick(id_))

    def _dial(self, a: NodeId, b: NodeId) -> None:
        pair = frozenset((a, b))
        if pair in self.up:
            return
        if self.cut(a, b):
            self.at(REDIAL_S, lambda: self._dial(a, b))
            return
        self._count += 1
        self.up[pair] = self._count
        self._arrives.pop((a, b), None)
        self._arrives.pop((b, a), None)
        self._step(a, Connected(b, True, "127.0.0.1", self.rng.randbytes(32)))
        self._step(b, Connected(a, False, "127.0.0.1", self.rng.randbytes(32)))

    def _break(self, a: NodeId, b: NodeId) -> None:
        if self.up.pop(frozenset((a, b)), None) is None:
            return
        self._step(a, Disconnected(b))
        self._step(b, Disconnected(a))
        for dialer, dialed in ((a, b), (b, a)):
            if (dialer, dialed) in self.links:
                self.at(REDIAL_S, lambda d=dialer, e=dialed: self._dial(d, e))  # type: ignore[misc]

    def _step(self, id_: NodeId, event: Event) -> None:
        todo: deque[Effect] = deque(self.nodes[id_].handle(event, self.now_s))
        for effect in todo:
            match effect:
                case Send(peer, message):
                    self._send(id_, peer, message)
                case Store(source, raws):
                    self._store(id_, source, raws)
                    if self.rng.random() < self.repeat:
                        self._store(id_, source, raws)
                case Drop(peer, code, _):
                    self.drops.append((id_, peer, code))
                    self._break(id_, peer)
                case _:
                    pass  # Dial: wires are laid by the scenario

    def _store(self, id_: NodeId, source: NodeId, raws: tuple[bytes, ...]) -> None:
        def done() -> None:
            results = tuple(self.store_of[id_].judge(raw) for raw in raws)
            self._step(id_, Results(source, results))

        self.at(STORE_S, done)

    def _send(self, a: NodeId, b: NodeId, message: Message) -> None:
        number = self.up.get(frozenset((a, b)))
        if number is None:
            return
        raw = messages.encode(message)
        self.traffic.count(message, len(raw))
        if self.rng.random() < self.loss:
            self.at(self.delay_s[1], lambda: self._lost(a, b, number))
            return
        # A connection keeps its order: nothing overtakes.
        arrives_s = max(self.now_s + self.rng.uniform(*self.delay_s), self._arrives.get((a, b), 0.0))
        self._arrives[(a, b)] = arrives_s

        def deliver() -> None:
            if self.up.get(frozenset((a, b))) != number:
                return
            try:
                self._step(b, Received(a, messages.decode(raw)))
            except RemoteProtocolError as error:
                self.drops.append((b, a, str(error)))
                self._break(a, b)
            if isinstance(message, Records) and message.answer:
                self._step(a, Sent(b, sum(map(len, message.raws))))

        self.at(arrives_s - self.now_s, deliver)

    def _lost(self, a: NodeId, b: NodeId, number: int) -> None:
        if self.up.get(frozenset((a, b))) == number:
            self._break(a, b)
