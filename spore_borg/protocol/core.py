"""The protocol as a state machine: events in, effects out, no I/O.

Nothing here opens a socket, reads a clock, draws a random number of its own or touches a disk. New records
are pushed along a spanning tree and announced everywhere else (Plumtree); old ones are found by range
reconciliation; a record that lacks parents is held back and its parents are asked for.
Source: Leitão, Pereira, Rodrigues, "Epidemic Broadcast Trees" (2007). Spec: ``spec/30-transport.md`` to
``spec/32-reconciliation.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spore_borg.errors import RemoteProtocolError
from spore_borg.limits import HAVE_CIDS_MAX, RECON_INTERVAL_S, RECON_ROUNDS_MAX, RECORDS_FRAME_BYTES_MAX
from spore_borg.protocol import recon
from spore_borg.protocol.events import (
    Chance,
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
    Status,
    Store,
    Tick,
)
from spore_borg.protocol.index import KeyIndex, cid_of, key_of
from spore_borg.protocol.members import Book
from spore_borg.protocol.messages import (
    VERSION,
    Address,
    Addresses,
    BlobPart,
    BlobWant,
    Bye,
    Have,
    Hello,
    Ping,
    Pong,
    Prune,
    Recon,
    ReconReply,
    Records,
    Want,
)
from spore_borg.protocol.orphans import Orphan, Orphans
from spore_borg.protocol.peer import Peer, Recent, Session
from spore_borg.protocol.wants import WANTS_MAX, Wants
from spore_borg.records.cid import Cid

TICK_S = 0.1  # how often the driver sends Tick
GRAFT_DELAY_S = 0.4  # an announced record that nobody has pushed by then is asked for
EAGER_MAX = 12  # peers to whom new records are pushed from the start; the tree grows from them
DIAL_TARGET = 8  # below this many peers, addresses heard from others are dialled
DIAL_INTERVAL_S = 1.0
SESSION_TIMEOUT_S = 30.0  # a reconciliation without an answer for this long is given up
BACKLOG_LOW = 4_096  # a reconciliation goes on when fewer ids than this wait for the peer
SHUN_MAX = 8_192  # ids remembered as refused or not yet due
NOT_YET_S = 10.0  # a record from too far ahead is asked for again after this long
HASH_COST = 1 / 64  # bytes of budget for each byte fingerprinted


@dataclass(slots=True)
class _Pending:
    raw: bytes
    live: bool


class Core:
    """One node's side of the protocol.

    Args:
        me: this node's id. mesh: the mesh it speaks for; peers of another are dropped.
        index: the store. rng: the only source of chance.
        host, port: where this node listens; port 0: nowhere. role: research, verify or sync.
    """

    def __init__(
        self,
        me: NodeId,
        mesh: Cid,
        index: RecordIndex,
        rng: Chance,
        *,
        agent: str = "spore-borg",
        role: str = "research",
        host: str = "",
        port: int = 0,
    ) -> None:
        self.me = me
        self.mesh = mesh
        self.index = index
        self.rng = rng
        self.agent, self.role, self.host, self.port = agent, role, host, port
        self.keys = KeyIndex(epoch.to_bytes(8, "big") + digest for epoch, digest in index.keys())  # noqa: SIM118 - a method of the store
        self.peers: dict[NodeId, Peer] = {}
        self.book = Book(me)
        self.wants = Wants()
        self.orphans = Orphans()
        self._pending: dict[Cid, _Pending] = {}
        self._shunned = Recent(SHUN_MAX)
        self._sessions = 0
        self._recon_s = 0.0
        self._dial_s = 0.0

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Advance by one event.

        Args:
            event: what happened.
            now_s: monotonic time in seconds; never decreases between calls.
        Returns:
            Effects, in the order in which the caller must carry them out.
        Raises:
            RemoteProtocolError: the peer broke the spec; drop the connection, keep the node.
        """
        match event:
            case Received(peer, message):
                return self._received(peer, message, now_s)
            case Sent(peer, size_bytes):
                return self._sent(peer, size_bytes, now_s)
            case Results(source, results):
                return self._results(source, results, now_s)
            case Published(cid, epoch, raw):
                self.keys.add(key_of(epoch, cid))
                self.wants.done(cid)
                return [*self._spread([(cid, raw)], None), *self._release([cid])]
            case Connected():
                return self._connected(event)
            case Disconnected(peer):
                return self._disconnected(peer, now_s)
            case Tick():
                return self._tick(now_s)

    def ready(self) -> list[Peer]:
        """Peers that have said Hello."""
        return [peer for peer in self.peers.values() if peer.hello is not None]

    # --- connections --------------------------------------------------------------------------------------

    def _connected(self, event: Connected) -> list[Effect]:
        peer = Peer(event.peer, event.dialed, event.host, event.nonce)
        peer.eager = len(self.peers) < EAGER_MAX
        self.peers[event.peer] = peer
        self.wants.add_peer(event.peer)
        hello = Hello(VERSION, self.mesh, event.nonce, self.agent, self.role, self.host, self.port)
        return [Send(event.peer, hello)]

    def _disconnected(self, id_: NodeId, now_s: float) -> list[Effect]:
        self.peers.pop(id_, None)
        self.wants.remove_peer(id_)
        self.orphans.drop_peer(id_)
        return self._ask(now_s)

    def _greeted(self, peer: Peer, hello: Hello, now_s: float) -> list[Effect]:
        if peer.hello is not None:
            raise RemoteProtocolError(detail="a second Hello")
        if hello.mesh != self.mesh:
            return [Drop(peer.id, "other-mesh", "this node belongs to another mesh")]
        if hello.nonce == peer.nonce:
            raise RemoteProtocolError(detail="our own nonce came back")
        peer.hello = hello
        self.book.reached(peer.id)
        effects: list[Effect] = []
        if hello.port:
            entry = Address(hello.host or peer.host, hello.port, peer.id)
            if self.book.add(entry, peer.host, direct=True):
                others = [other.id for other in self.ready() if other is not peer]
                effects += [Send(other, Addresses((entry,))) for other in others]
        known = self.book.sample(self.rng, besides=peer.id)
        if known:
            effects.append(Send(peer.id, Addresses(known)))
        if peer.dialed:
            effects += self._begin(peer, now_s)
        return effects

    # --- messages -----------------------------------------------------------------------------------------

    def _received(self, id_: NodeId, message: object, now_s: float) -> list[Effect]:  # noqa: C901 - a table
        peer = self.peers.get(id_)
        if peer is None:
            return []  # dropped meanwhile
        if isinstance(message, Hello):
            return self._greeted(peer, message, now_s)
        if isinstance(message, Bye):
            return [Drop(id_, "bye", message.code)]
        if peer.hello is None:
            raise RemoteProtocolError(detail="the first message is not Hello")
        match message:
            case Ping(number):
                return [Send(id_, Pong(number))]
            case Have(now, cids):
                return self._heard(peer, cids, now_s, now=now)
            case Want():
                return self._wanted(peer, message, now_s)
            case Records():
                return self._records(peer, message, now_s)
            case Prune():
                peer.eager = False
                return []
            case Recon():
                return self._recon(peer, message, now_s)
            case ReconReply():
                return self._recon_reply(peer, message, now_s)
            case Addresses(entries):
                for entry in entries:
                    self.book.add(entry, peer.host, direct=False)
                return []
            case Pong() | BlobWant() | BlobPart():
                return []  # the driver's
        raise RemoteProtocolError(detail="a message out of place")

    def _unknown(self, cids: Iterable[Cid], now_s: float) -> list[Cid]:
        """Those that are neither stored, on their way to the store, held back nor shunned."""
        return [
            cid
            for cid in self.index.missing(list(cids))
            if cid not in self._pending and cid not in self.orphans and not self._shunned.holds(cid, now_s)
        ]

    def _heard(self, peer: Peer, cids: tuple[Cid, ...], now_s: float, *, now: bool) -> list[Effect]:
        for cid in cids:
            peer.seen.add(cid)
        unknown = self._unknown(cids, now_s)
        if now:
            self.wants.add(peer.id, unknown)
            return self._ask(now_s, peer)
        room = WANTS_MAX // 8 - len(peer.heard)
        peer.heard.extend((now_s + GRAFT_DELAY_S, cid) for cid in unknown[: max(0, room)])
        return []

    def _wanted(self, peer: Peer, want: Want, now_s: float) -> list[Effect]:
        if want.graft:
            peer.eager = True
        refused = peer.serving.ask(want, self.index)
        if refused is not None:
            return [Send(peer.id, refused)]
        return self._serve(peer, now_s)

    def _serve(self, peer: Peer, now_s: float) -> list[Effect]:
        return [Send(peer.id, records) for records in peer.serving.pump(self.index, now_s)]

    def _sent(self, id_: NodeId, size_bytes: int, now_s: float) -> list[Effect]:
        peer = self.peers.get(id_)
        if peer is None:
            return []
        peer.serving.sent(size_bytes)
        return [*self._serve(peer, now_s), *self._resume(peer, now_s)]

    def _records(self, peer: Peer, message: Records, now_s: float) -> list[Effect]:
        named = [(Cid.of(raw), raw) for raw in message.raws]
        live = True
        if message.answer:
            asked = self.wants.answered(
                peer.id, message.answer, [cid for cid, _ in named], last=message.last, now_s=now_s
            )
            live = bool(asked)
        fresh = set(self._unknown(dict(named), now_s))
        effects: list[Effect] = []
        if not message.answer and named:
            if fresh:
                peer.eager = True
            elif peer.eager:
                peer.eager = False
                effects.append(Send(peer.id, Prune()))
        offers: list[bytes] = []
        for cid, raw in named:
            peer.seen.add(cid)
            if cid in fresh:
                fresh.discard(cid)
                self._pending[cid] = _Pending(raw, live)
                self.wants.done(cid)
                offers.append(raw)
                # Orphans that this record completes go along: the order of the answer is its sender's
                # order of arrival, so what follows in it may need them.
                for orphan in self.orphans.release(cid, peer.id):
                    self._pending[orphan.cid] = _Pending(orphan.raw, orphan.live)
                    offers.append(orphan.raw)
        if offers:
            effects.append(Store(peer.id, tuple(offers)))
        return [*effects, *self._ask(now_s, peer), *self._resume(peer, now_s)]

    # --- the store's word ---------------------------------------------------------------------------------

    def _results(self, source: NodeId, results: tuple[Offered, ...], now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        news: dict[bool, list[tuple[Cid, bytes]]] = {True: [], False: []}
        arrived: list[Cid] = []
        peer = self.peers.get(source)
        for result in results:
            pending = self._pending.pop(result.cid, None)
            if pending is None:
                continue
            match result.status:
                case Status.STORED | Status.KNOWN:
                    self.keys.add(key_of(result.epoch, result.cid))
                    if result.status is Status.STORED:
                        news[pending.live].append((result.cid, pending.raw))
                    arrived.append(result.cid)
                case Status.MISSING:
                    if peer is not None:
                        effects += self._hold(peer, result, pending, now_s)
                case Status.NOT_YET:
                    self._shunned.add(result.cid, now_s + NOT_YET_S)
                case Status.REFUSED:
                    self._shunned.add(result.cid)
                    for cid in self.orphans.refuse(result.cid):
                        self._shunned.add(cid, now_s + NOT_YET_S)
                    if peer is not None:
                        peer.rejected += 1
                        if result.offence:
                            effects.append(Drop(source, "bad-record", result.code))
        effects += self._spread(news[True], source)
        effects += self._announce(news[False], source)
        return [*effects, *self._release(arrived), *self._ask(now_s)]

    def _hold(self, peer: Peer, result: Offered, pending: _Pending, now_s: float) -> list[Effect]:
        """Keep a record whose parents lack, and ask its sender for them."""
        lacks = tuple(self.index.missing(list(result.parents)))
        if not lacks:  # they came while the store looked
            self._pending[result.cid] = pending
            return [Store(peer.id, (pending.raw,))]
        self.orphans.add(Orphan(result.cid, pending.raw, peer.id, set(lacks), pending.live))
        self.wants.add(peer.id, self._unknown(lacks, now_s))
        return []

    def _release(self, arrived: list[Cid]) -> list[Effect]:
        """Offer again, in one batch a peer, what had waited for these records alone."""
        free: dict[NodeId, list[bytes]] = {}
        for cid in arrived:
            for orphan in self.orphans.release(cid):
                self._pending[orphan.cid] = _Pending(orphan.raw, live=orphan.live)
                free.setdefault(orphan.source, []).append(orphan.raw)
        return [Store(source, tuple(raws)) for source, raws in free.items()]

    # --- spreading ----------------------------------------------------------------------------------------

    def _spread(self, news: list[tuple[Cid, bytes]], source: NodeId | None) -> list[Effect]:
        """Push new records along the tree and announce them to the others."""
        effects: list[Effect] = []
        for peer in self.ready() if news else ():
            if peer.id == source:
                continue
            fresh = [(cid, raw) for cid, raw in news if not peer.seen.holds(cid)]
            if not peer.eager:
                peer.announce += [cid for cid, _ in fresh]
                continue
            batch: list[bytes] = []
            size = 0
            for cid, raw in fresh:
                peer.seen.add(cid)
                if batch and (size + len(raw) > RECORDS_FRAME_BYTES_MAX or len(batch) >= HAVE_CIDS_MAX):
                    effects.append(Send(peer.id, Records(0, last=True, raws=tuple(batch))))
                    batch, size = [], 0
                batch.append(raw)
                size += len(raw)
            if batch:
                effects.append(Send(peer.id, Records(0, last=True, raws=tuple(batch))))
        return effects

    def _announce(self, news: list[tuple[Cid, bytes]], source: NodeId) -> list[Effect]:
        """Tell others of old records that have just arrived, unless a reconciliation will."""
        effects: list[Effect] = []
        for peer in self.ready() if news else ():
            if peer.id == source or peer.session is not None:
                continue
            effects += _haves(peer.id, [cid for cid, _ in news if not peer.seen.holds(cid)], now=True)
        return effects

    def _ask(self, now_s: float, peer: Peer | None = None) -> list[Effect]:
        peers = self.ready() if peer is None else [peer]
        return [Send(one.id, want) for one in peers for want in self.wants.requests(one.id, now_s)]

    # --- reconciliation -----------------------------------------------------------------------------------

    def _begin(self, peer: Peer, now_s: float) -> list[Effect]:
        """Start a reconciliation with a peer."""
        assert peer.hello is not None
        self._sessions += 1
        key = recon.session_key(peer.nonce, peer.hello.nonce, self.mesh, self._sessions)
        peer.session = Session(self._sessions, key, 0, now_s + SESSION_TIMEOUT_S)
        peer.again = False
        ranges = recon.encode_ranges(recon.begin(self.keys, key))
        return [Send(peer.id, Recon(self._sessions, 0, ranges))]

    def _recon(self, peer: Peer, message: Recon, now_s: float) -> list[Effect]:
        """Answer a peer's reconciliation; nothing is kept of it here."""
        if message.round >= RECON_ROUNDS_MAX:
            raise RemoteProtocolError(detail=f"over {RECON_ROUNDS_MAX} rounds of reconciliation")
        if not peer.serving.budget.refill(now_s):
            return []  # over its budget: it will give up and try later
        assert peer.hello is not None
        key = recon.session_key(peer.hello.nonce, peer.nonce, self.mesh, message.session)
        answer = recon.respond(self.keys, key, recon.decode_ranges(message.ranges), initiator=False)
        ranges = recon.encode_ranges(answer.ranges)
        peer.serving.budget.spend(len(ranges) + answer.hashed_bytes * HASH_COST)
        self.wants.add(peer.id, self._unknown(map(cid_of, answer.need), now_s))
        reply = ReconReply(message.session, message.round, ranges)
        return [Send(peer.id, reply), *self._ask(now_s, peer)]

    def _recon_reply(self, peer: Peer, message: ReconReply, now_s: float) -> list[Effect]:
        session = peer.session
        if session is None or (message.session, message.round) != (session.number, session.round):
            return []  # of a session given up
        ranges = recon.decode_ranges(message.ranges)
        answer = recon.respond(self.keys, session.key, ranges, initiator=True)
        session.progress = session.progress or bool(answer.need or answer.have)
        effects = _haves(peer.id, [cid_of(key) for key in answer.have], now=True)
        self.wants.add(peer.id, self._unknown(map(cid_of, answer.need), now_s))
        effects += self._ask(now_s, peer)
        session.round += 1
        if not answer.ranges or session.round >= RECON_ROUNDS_MAX:
            peer.again = bool(answer.ranges) and session.progress
            peer.session = None
            peer.synced_s = now_s
            return effects
        session.waiting = recon.encode_ranges(answer.ranges)
        return [*effects, *self._resume(peer, now_s)]

    def _resume(self, peer: Peer, now_s: float) -> list[Effect]:
        """Send the next round once the peer has caught up with what the last ones led to."""
        session = peer.session
        if session is None or session.waiting is None or not peer.serving.idle:
            return []
        if self.wants.backlog(peer.id) >= BACKLOG_LOW:
            return []
        ranges, session.waiting = session.waiting, None
        session.deadline_s = now_s + SESSION_TIMEOUT_S
        return [Send(peer.id, Recon(session.number, session.round, ranges))]

    # --- time ---------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        self.wants.expire(now_s)
        for peer in self.ready():
            fresh = [cid for cid in peer.announce if not peer.seen.holds(cid)]
            peer.announce = []
            effects += _haves(peer.id, fresh, now=False)
            due: list[Cid] = []
            while peer.heard and peer.heard[0][0] <= now_s:
                due.append(peer.heard.popleft()[1])
            if due:
                self.wants.add(peer.id, self._unknown(due, now_s), graft=True)
            effects += self._serve(peer, now_s)
            effects += self._resume(peer, now_s)
            session = peer.session
            if session is not None and session.waiting is None and session.deadline_s <= now_s:
                peer.session = None
            if peer.again and peer.session is None and not self.wants.backlog(peer.id):
                effects += self._begin(peer, now_s)
        return [*effects, *self._ask(now_s), *self._periodic(now_s)]

    def _periodic(self, now_s: float) -> list[Effect]:
        """Reconcile with a random peer now and then; find more peers while there are few."""
        effects: list[Effect] = []
        ready = self.ready()
        if now_s >= self._recon_s:
            if self._recon_s:
                free = [peer for peer in ready if peer.session is None]
                if free:
                    effects += self._begin(self.rng.choice(free), now_s)
            self._recon_s = now_s + RECON_INTERVAL_S * self.rng.uniform(0.75, 1.25)
        if now_s >= self._dial_s and len(ready) < DIAL_TARGET:
            self._dial_s = now_s + DIAL_INTERVAL_S
            address = self.book.due(self.peers, now_s, self.rng)
            if address is not None:
                effects.append(Dial(address))
        return effects


def _haves(peer: NodeId, cids: list[Cid], *, now: bool) -> list[Effect]:
    pages = (tuple(cids[at : at + HAVE_CIDS_MAX]) for at in range(0, len(cids), HAVE_CIDS_MAX))
    return [Send(peer, Have(now, page)) for page in pages]
