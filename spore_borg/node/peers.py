"""The node's connections: carries events into the protocol core and its effects out. trio.

One reader and one writer task per connection, bounded queues between. Publishing never waits for a peer; a
peer's error ends its connection and nothing else.
"""

from __future__ import annotations

import logging
import random
import secrets
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from spore_borg.errors import RemoteProtocolError
from spore_borg.limits import HANDSHAKE_TIMEOUT_S, PEER_IDLE_TIMEOUT_S, PEERS_MAX, PING_INTERVAL_S
from spore_borg.node.download import BlobStore, Downloads
from spore_borg.node.link import Link, SlowPeer
from spore_borg.node.transport import Conn, Endpoint, PeerUnreachable, TlsTransport, Transport
from spore_borg.protocol import messages
from spore_borg.protocol.core import TICK_S, Core
from spore_borg.protocol.events import (
    Connected,
    Dial,
    Disconnected,
    Drop,
    Effect,
    Event,
    NodeId,
    Offered,
    Published,
    Received,
    RecordIndex,
    Results,
    Send,
    Sent,
    Store,
    Tick,
)
from spore_borg.protocol.messages import BlobPart, BlobWant, Bye, Hello, Message, Ping, Pong
from spore_borg.records.cid import Cid
from spore_borg.records.keys import SigningKey, node_name

log = logging.getLogger("spore_borg")

DIAL_DELAY_S_MIN, DIAL_DELAY_S_MAX = 0.2, 5.0
BAN_S = 60.0  # a peer that sent what no honest node sends is not spoken to for this long, doubling each time
BAN_S_MAX = 3_600.0
BANS_MAX = 1_024
OFFENCES = ("bad-record", "protocol", "bad-blob")


class RecordSink(Protocol):
    """The node's one writer, as the wire sees it."""

    async def offer(self, raws: list[bytes], source: bytes) -> Sequence[Offered]:
        """Admit and store records; one answer for each, in order, durable when it returns."""
        ...


class Storable(Protocol):
    """What ``publish`` needs of a record; ``records.envelope.Record`` has it."""

    @property
    def cid(self) -> Cid:
        """Its id."""
        ...

    @property
    def epoch(self) -> int:
        """Its epoch."""
        ...

    @property
    def raw(self) -> bytes:
        """Its canonical bytes."""
        ...


class Peers:
    """All connections of one node.

    Args:
        seed: 32-byte seed of the node's identity.
        mesh: the mesh; peers of another are dropped.
        index: what is stored; read from the trio thread.
        sink: admits records.
        blobs: the blob store.
        listen: where to accept connections; None: nowhere.
        next_free: if that port is taken, take the next one that is not.
        peers: configured (address, key or None) pairs: dialled for ever, never erased.
        advertise: host told to others; empty: the address that they see.
        transport: what carries connections; the embedded engine by default.
    """

    def __init__(
        self,
        seed: bytes,
        mesh: Cid,
        index: RecordIndex,
        sink: RecordSink,
        blobs: BlobStore,
        *,
        listen: Endpoint | None = None,
        next_free: bool = False,
        peers: Iterable[tuple[Endpoint, bytes | None]] = (),
        advertise: str = "",
        agent: str = "spore-borg",
        role: str = "research",
        transport: Transport | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.me = NodeId(SigningKey(seed).public)
        self.listen = listen
        self._next_free = next_free
        self.address: Endpoint | None = None  # where we listen, once we do
        self._transport = transport if transport is not None else TlsTransport(seed)
        self._sink = sink
        self._blobs = blobs
        self._rng = rng if rng is not None else random.Random(secrets.randbits(128))
        self.core = Core(self.me, mesh, index, self._rng, agent=agent, role=role, host=advertise)
        self.links: dict[NodeId, Link] = {}
        self._configured: dict[Endpoint, bytes | None] = dict(peers)
        self._dialing: set[bytes] = set()
        self._bans: dict[bytes, tuple[float, float]] = {}  # key → (until, length)
        self._nursery: trio.Nursery | None = None
        self._downloads = Downloads(blobs, self._send_to, self._offence)

    # --- for the node -------------------------------------------------------------------------------------

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and talk, for ever. Reports the address that it listens on, or None."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._downloads.nursery = nursery
            if self.listen is not None:
                self.address = await nursery.start(
                    partial(self._transport.serve, next_free=self._next_free), self.listen, self._accepted
                )
                assert self.address is not None
                self.core.port = self.address.port
            for address, key in list(self._configured.items()):
                nursery.start_soon(self._keep_dialing, address, key)
            nursery.start_soon(self._ticks)
            task_status.started(self.address)

    def publish(self, records: Iterable[Storable]) -> None:
        """Tell all peers of records that are stored here. Never waits."""
        for record in records:
            self._begin(self._step(Published(record.cid, record.epoch, record.raw)))

    def connect(self, address: Endpoint, key: bytes | None = None) -> None:
        """Dial a node from now on; its address is kept until this process ends."""
        if address in self._configured:
            return
        self._configured[address] = key
        if self._nursery is not None:
            self._nursery.start_soon(self._keep_dialing, address, key)

    async def fetch_blob(
        self, cid: Cid, hints: Iterable[bytes] = (), *, timeout_s: float = 60.0, most_bytes: int | None = None
    ) -> Path:
        """Bring a blob here, or go on with an interrupted download; returns its file.

        Args:
            cid: the blob. hints: nodes that probably have it, asked first.
            timeout_s: longest time without any progress. most_bytes: a larger blob is not fetched.
        Raises:
            NotFound: no peer brought a part of it within ``timeout_s``. TooLarge: it is larger.
        """
        return await self._downloads.fetch(cid, tuple(map(NodeId, hints)), timeout_s, most_bytes)

    def status(self) -> list[dict[str, Any]]:
        """One JSON-able row for each connected peer that has said Hello."""
        rows: list[dict[str, Any]] = []
        for key, link in sorted(self.links.items()):
            peer = self.core.peers.get(key)
            if peer is None or peer.hello is None:
                continue
            behind = self.core.wants.backlog(key)
            rows.append(
                {
                    "node": node_name(key),
                    "name": node_name(key),
                    "address": str(link.conn.remote),
                    "direction": "out" if link.dialed else "in",
                    "role": peer.hello.role,
                    "agent": peer.hello.agent,
                    "lag": behind,
                    "behind": behind,
                    "latency_ms": None if link.latency_ms is None else round(link.latency_ms, 2),
                    "rejected": peer.rejected,
                    "queued_bytes": link.queued_bytes,
                    "synced": peer.synced_s is not None,
                }
            )
        return rows

    # --- the core's effects -------------------------------------------------------------------------------

    def _step(self, event: Event) -> list[Store]:
        """Advance the core; carry out all but its Store effects, which are returned."""
        stores: list[Store] = []
        effects: list[Effect] = self.core.handle(event, trio.current_time())
        for effect in effects:
            match effect:
                case Send(peer, message):
                    self._send_to(peer, message)
                case Store():
                    stores.append(effect)
                case Drop(peer, code, detail):
                    self._drop(peer, code, detail)
                case Dial(address):
                    self._spawn_dial(Endpoint(address.host, address.port), address.key)
        return stores

    def _send_to(self, peer: NodeId, message: Message) -> None:
        link = self.links.get(peer)
        if link is not None:
            link.push(message)

    def _drop(self, peer: NodeId, code: str, detail: str) -> None:
        link = self.links.get(peer)
        if link is None:
            return
        log.info("peer %s dropped: %s (%s)", node_name(peer)[:8], code, detail)
        if code in OFFENCES:
            self._ban(peer)
        link.end(code)  # strangers get the code only, never our details

    def _offence(self, peer: NodeId, detail: str) -> None:
        self._drop(peer, "bad-blob", detail)

    def _ban(self, peer: bytes) -> None:
        _, length = self._bans.pop(peer, (0.0, BAN_S / 2))
        length = min(BAN_S_MAX, 2 * length)
        self._bans[peer] = (trio.current_time() + length, length)
        while len(self._bans) > BANS_MAX:
            del self._bans[next(iter(self._bans))]

    def _banned(self, peer: bytes) -> bool:
        return self._bans.get(peer, (0.0, 0.0))[0] > trio.current_time()

    def _begin(self, stores: list[Store]) -> trio.Event | None:
        """Run Store effects in a task of their own: a connection that ends does not cut the store off."""
        if not stores or self._nursery is None:
            return None
        done = trio.Event()
        self._nursery.start_soon(self._store, stores, done)
        return done

    async def _store(self, stores: list[Store], done: trio.Event) -> None:
        todo = deque(stores)
        while todo:
            store = todo.popleft()
            results = await self._sink.offer(list(store.raws), store.source)
            todo.extend(self._step(Results(store.source, tuple(results))))
        done.set()

    # --- connections --------------------------------------------------------------------------------------

    async def _accepted(self, conn: Conn) -> None:
        await self._talk(conn, dialed=False)

    async def _place(self, link: Link) -> str:
        """Make room for a new connection; an empty text, or why it is not wanted."""
        if link.peer == self.me or self._banned(link.peer):
            return "not-now"
        old = self.links.get(link.peer)
        if old is not None:
            # Both dialled each other: both keep the connection that the smaller key dialled.
            if old.dialed != link.dialed and not old.ended:
                dialer = self.me if link.dialed else link.peer
                if dialer != min(self.me, link.peer):
                    return "twice"
            old.scope.cancel()
            await old.gone.wait()
            if link.peer in self.links:
                return "twice"
        if len(self.links) >= PEERS_MAX:
            return "full"
        self.links[link.peer] = link
        return ""

    async def _talk(self, conn: Conn, *, dialed: bool) -> None:
        """One connection from its handshake to its end."""
        link = Link(conn, NodeId(conn.peer), dialed)
        if await self._place(link):
            await conn.aclose()
            return
        try:
            with link.scope:
                nonce = secrets.token_bytes(messages.NONCE_BYTES)
                self._begin(self._step(Connected(link.peer, dialed, conn.remote.host, nonce)))
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._write, self._ping, self._serve_blobs):
                        nursery.start_soon(self._guarded, task, link)
        finally:
            del self.links[link.peer]
            link.gone.set()
            self._begin(self._step(Disconnected(link.peer)))
            self._downloads.peer_down(link.peer)
            with trio.CancelScope(shield=True):
                await conn.aclose()

    async def _guarded(self, task: Any, link: Link) -> None:
        """Run one task of a connection: what goes wrong with a peer ends the connection only."""
        try:
            await task(link)
        except RemoteProtocolError as error:
            log.info("peer %s broke the protocol: %s", node_name(link.peer)[:8], error.fields["detail"])
            self._ban(link.peer)
            link.end("protocol")
        except SlowPeer:
            link.end("too-slow")
            link.scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError):
            link.scope.cancel()

    async def _read(self, link: Link) -> None:
        limit_s = HANDSHAKE_TIMEOUT_S  # for the first message
        while True:
            with trio.move_on_after(limit_s) as idle:
                payload = await link.conn.receive_frame()
            if idle.cancelled_caught or payload is None:
                link.scope.cancel()
                return
            if link.ended:
                continue
            message = messages.decode(payload)
            done = self._begin(self._step(Received(link.peer, message)))
            if done is not None:
                await done.wait()  # this peer's next message waits for the store: backpressure
            self._driver_message(link, message)
            limit_s = PEER_IDLE_TIMEOUT_S

    def _driver_message(self, link: Link, message: Message) -> None:
        """Messages that are not the core's business."""
        match message:
            case Hello():
                self._downloads.peer_up(link.peer)
            case Pong(number) if link.ping is not None and link.ping[0] == number:
                link.latency_ms = 1_000 * (trio.current_time() - link.ping[1])
                link.ping = None
            case BlobPart():
                self._downloads.part(link.peer, message)
            case BlobWant():
                if not link.ask_blob(message):
                    raise RemoteProtocolError(detail="too many blob requests at once")
            case Bye():
                link.scope.cancel()

    async def _write(self, link: Link) -> None:
        while True:
            for size_bytes in await link.write():
                self._begin(self._step(Sent(link.peer, size_bytes)))

    async def _ping(self, link: Link) -> None:
        number = 0
        await trio.sleep(0.05)  # after the Hellos
        while True:
            number += 1
            link.ping = (number, trio.current_time())
            link.push(Ping(number))
            await trio.sleep(PING_INTERVAL_S)

    async def _serve_blobs(self, link: Link) -> None:
        """Answer blob requests one at a time, within the peer's budget."""
        while True:
            while not link.blob_requests:
                link.blob_news = trio.Event()
                await link.blob_news.wait()
            want = link.blob_requests.popleft()
            while not link.blob_budget.refill(trio.current_time()):  # noqa: ASYNC110 - time refills it
                await trio.sleep(TICK_S)
            data = await trio.to_thread.run_sync(self._downloads.read_part, want)
            link.blob_budget.spend(len(data) if data is not None else 256)
            await link.push_bulk(BlobPart(want.cid, want.index, data))

    # --- dialling and time --------------------------------------------------------------------------------

    async def _ticks(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            self._begin(self._step(Tick()))
            self._downloads.tick()

    def _spawn_dial(self, address: Endpoint, key: bytes) -> None:
        if self._nursery is not None and key not in self._dialing and key not in self.links:
            self._nursery.start_soon(self._dial_once, address, key)

    async def _dial_once(self, address: Endpoint, key: bytes | None) -> bytes | None:
        """Dial, and talk until that ends. Returns the key that answered, None when nobody usable did."""
        if key is not None:
            if key in self._dialing or self._banned(key):
                return None
            self._dialing.add(key)
        try:
            conn = await self._transport.dial(address, key)
        except (PeerUnreachable, RemoteProtocolError) as error:
            log.debug("dial %s: %s", address, error)
            return None
        finally:
            if key is not None:
                self._dialing.discard(key)
        await self._talk(conn, dialed=True)
        return conn.peer

    async def _keep_dialing(self, address: Endpoint, key: bytes | None) -> None:
        """Stay connected to a configured peer, with back-off and jitter."""
        delay_s = DIAL_DELAY_S_MIN
        while True:
            link = self.links.get(NodeId(key)) if key is not None else None
            if link is not None:
                await link.gone.wait()
                delay_s = DIAL_DELAY_S_MIN
            else:
                answered = await self._dial_once(address, key)
                if answered is not None:
                    key, delay_s = answered, DIAL_DELAY_S_MIN
                else:
                    delay_s = min(DIAL_DELAY_S_MAX, 2 * delay_s)
            if key == self.me:
                return  # our own address
            await trio.sleep(delay_s * self._rng.uniform(0.5, 1.0))
