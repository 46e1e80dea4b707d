"""What a hostile or broken peer can do to the core: nothing that outlives its connection."""

from __future__ import annotations

from random import Random

import pytest

from spore_borg.errors import RemoteProtocolError
from spore_borg.limits import (
    BLOB_INFLIGHT_MAX,
    CHUNK_SIZE_BYTES,
    ORPHANS_PER_PEER_MAX,
    WANT_CIDS_MAX,
    WANT_RETRY_S,
)
from spore_borg.protocol import messages, recon
from spore_borg.protocol.core import GRAFT_DELAY_S, NOT_YET_S, Core
from spore_borg.protocol.events import (
    Connected,
    Disconnected,
    Drop,
    NodeId,
    Published,
    Received,
    Results,
    Send,
    Sent,
    Store,
    Tick,
)
from spore_borg.protocol.fetch import Ask, Fetcher, Finish, Open, Write
from spore_borg.protocol.members import Book, advertisable
from spore_borg.protocol.messages import (
    MANIFEST,
    Address,
    Addresses,
    BlobPart,
    Have,
    Hello,
    Prune,
    Recon,
    ReconReply,
    Records,
    Want,
)
from spore_borg.protocol.orphans import Orphan, Orphans
from spore_borg.protocol.serving import REQUESTS_QUEUED_MAX, WINDOW_BYTES
from spore_borg.records.canonical import encode
from spore_borg.records.cid import RAW, Cid
from spore_borg.sim.toy import ToyRecord, ToyStore, chain

MESH = Cid.of(b"mesh")
ME, P, Q = (NodeId(bytes([number]) * 32) for number in (1, 2, 3))


class World:
    """One core and its store; peers are played by the test."""

    def __init__(self, records=(), *, epoch=1 << 40):
        self.store = ToyStore(records, epoch)
        self.core = Core(ME, MESH, self.store, Random(1))
        self.now_s = 100.0
        self.sent: list[Send] = []
        self.drops: list[Drop] = []

    def do(self, event):
        todo = list(self.core.handle(event, self.now_s))
        sent = []
        for effect in todo:
            if isinstance(effect, Store):
                results = tuple(self.store.judge(raw) for raw in effect.raws)
                todo.extend(self.core.handle(Results(effect.source, results), self.now_s))
            elif isinstance(effect, Send):
                sent.append(effect)
            elif isinstance(effect, Drop):
                self.drops.append(effect)
        self.sent += sent
        return sent

    def join(self, peer, *, dialed=False, host="127.0.0.1", port=0, mesh=MESH):
        self.do(Connected(peer, dialed, host, bytes([peer[0] + 100]) * 32))
        return self.do(Received(peer, Hello(1, mesh, peer, "test", "research", "", port)))

    def tick(self, seconds):
        self.now_s += seconds
        return self.do(Tick())


def kinds(sent, kind, peer=None):
    return [item.message for item in sent if isinstance(item.message, kind) and peer in (None, item.peer)]


def test_nothing_before_hello_and_no_second_hello():
    world = World()
    world.do(Connected(P, False, "127.0.0.1", b"n" * 32))
    with pytest.raises(RemoteProtocolError):
        world.do(Received(P, Prune()))
    world = World()
    world.join(P)
    with pytest.raises(RemoteProtocolError):
        world.do(Received(P, Hello(1, MESH, b"x" * 32, "", "sync", "", 0)))


def test_another_mesh_is_sent_away():
    world = World()
    world.join(P, mesh=Cid.of(b"other"))
    assert [drop.code for drop in world.drops] == ["other-mesh"]


def test_our_nonce_cannot_be_played_back():
    world = World()
    world.do(Connected(P, False, "127.0.0.1", b"n" * 32))
    with pytest.raises(RemoteProtocolError):
        world.do(Received(P, Hello(1, MESH, b"n" * 32, "", "sync", "", 0)))


def test_a_child_before_its_root_is_held_back_and_its_root_asked_for():
    world = World()
    world.join(P)
    root = ToyRecord(0, (), b"root")
    child = ToyRecord(1, (root.cid,), b"child")
    grandchild = ToyRecord(2, (child.cid,), b"grandchild")
    sent = world.do(Received(P, Records(0, True, (grandchild.raw, child.raw))))
    assert not world.store.records
    assert not world.drops
    wanted = [cid for want in kinds(sent, Want) for cid in want.cids]
    assert root.cid in wanted
    number = kinds(sent, Want)[-1].number
    world.do(Received(P, Records(number, True, (root.raw,))))
    assert {root.cid, child.cid, grandchild.cid} == set(world.store.records)
    assert not world.core.orphans


def test_orphans_are_bounded_per_peer_and_leave_with_it():
    world = World()
    world.join(P)
    never = Cid.of(b"never")
    for start in range(0, ORPHANS_PER_PEER_MAX + 500, 500):
        raws = tuple(ToyRecord(1, (never,), b"%d" % n).raw for n in range(start, start + 500))
        world.do(Received(P, Records(0, True, raws)))
    assert len(world.core.orphans) == ORPHANS_PER_PEER_MAX
    world.do(Disconnected(P))
    assert not world.core.orphans
    pool = Orphans()
    for number in range(400):
        raw = bytes(60_000) + b"%d" % number
        pool.add(Orphan(Cid.of(raw), raw, P, {never}, True))
    assert len(pool) * 60_000 <= 16 << 20


def test_an_invalid_record_drops_its_sender_and_only_it():
    world = World()
    world.join(P)
    world.join(Q)
    bad = encode(["not", "a", "record", "at all"])
    world.do(Received(P, Records(0, True, (bad,))))
    assert [(drop.peer, drop.code) for drop in world.drops] == [(P, "bad-record")]
    world.do(Received(Q, Have(True, (Cid.of(bad),))))
    assert not kinds(world.tick(1.0), Want), "a refused record is not asked for again"


def test_a_far_future_record_is_not_yet_and_no_offence():
    world = World(epoch=5)
    world.join(P)
    future = ToyRecord(1 << 62, (), b"from the future")
    world.do(Received(P, Records(0, True, (future.raw,))))
    assert not world.drops
    assert not world.store.records
    assert len(world.core.keys) == 0, "it does not enter reconciliation"
    near = ToyRecord(8, (), b"soon")
    world.do(Received(P, Records(0, True, (near.raw,))))
    world.store.epoch = 6
    world.tick(NOT_YET_S + 1)
    sent = world.do(Received(P, Have(True, (near.cid,))))
    (want,) = kinds(sent, Want)
    world.do(Received(P, Records(want.number, True, (near.raw,))))
    assert world.store.has(near.cid), "once it is due it is taken"


def test_small_requests_are_not_amplified_past_the_window():
    records = [ToyRecord(0, (), bytes([n % 256, n // 256]) + bytes(60_000)) for n in range(400)]
    world = World(records)
    world.join(P)
    cids = tuple(record.cid for record in records)
    for number in range(1, 50):
        world.do(Received(P, Want(number, False, cids)))
    bodies = kinds(world.sent, Records, P)
    size = sum(len(raw) for message in bodies for raw in message.raws)
    assert size <= WINDOW_BYTES + (512 << 10), "a peer that does not read gets one window"
    refused = [message for message in bodies if message.last and not message.raws]
    assert len(refused) >= 49 - REQUESTS_QUEUED_MAX - 1
    seconds, total = 10, 0
    world.sent.clear()
    for step in range(seconds * 10):
        for message in kinds(world.tick(0.1), Records, P):
            total += sum(map(len, message.raws))
        for _ in range(20):
            for message in kinds(world.do(Sent(P, 1 << 20)), Records, P):
                total += sum(map(len, message.raws))
        world.do(Received(P, Want(100 + step, False, cids)))
    assert total <= (16 << 20) * (seconds + 1) + (1 << 20)


def test_reconciliation_requests_cost_their_sender_budget():
    world = World(chain(5_000))
    world.join(P)
    lie = recon.encode_ranges([recon.Range(None, recon.PRINT, b"?" * 16)])
    answers = sum(bool(kinds(world.do(Received(P, Recon(n, 0, lie))), ReconReply)) for n in range(1, 20_000))
    assert answers < 20_000 - 1
    with pytest.raises(RemoteProtocolError):
        world.do(Received(P, Recon(1, 64, lie)))


def test_an_endless_reconciliation_ends():
    world = World(chain(300))
    (first,) = kinds(world.join(P, dialed=True), Recon)
    lie = recon.encode_ranges([recon.Range(None, recon.PRINT, b"?" * 16)])
    rounds = 0
    message = first
    while message is not None:
        rounds += 1
        sent = kinds(world.do(Received(P, ReconReply(message.session, message.round, lie))), Recon)
        message = sent[0] if sent else None
        assert rounds <= 64
    assert world.core.peers[P].session is None


def test_wants_go_to_another_holder_when_the_first_is_silent_or_gone():
    world = World()
    for peer in (P, Q):
        world.join(peer)
    record = ToyRecord(0, (), b"r")
    assert kinds(world.do(Received(P, Have(True, (record.cid,)))), Want, P)
    assert not kinds(world.do(Received(Q, Have(True, (record.cid,)))), Want)
    assert kinds(world.tick(WANT_RETRY_S + 0.1), Want, Q)
    other = ToyRecord(0, (), b"s")
    world.do(Received(P, Have(True, (other.cid,))))
    world.do(Received(Q, Have(True, (other.cid,))))
    assert kinds(world.do(Disconnected(P)), Want, Q)


def test_what_peers_announce_is_bounded():
    world = World()
    world.join(P)
    rng = Random(3)
    for _ in range(200):
        cids = tuple(Cid.from_digest(rng.randbytes(32)) for _ in range(WANT_CIDS_MAX))
        world.do(Received(P, Have(True, cids)))
        world.do(Received(P, Have(False, cids)))
    assert len(world.core.wants) <= 65_536
    assert len(world.core.peers[P].heard) <= 8_192
    world.do(Disconnected(P))
    assert len(world.core.wants) == 0


def test_the_tree_prunes_and_grafts():
    world = World()
    for peer in (P, Q):
        world.join(peer)
    record = ToyRecord(0, (), b"1")
    sent = world.do(Received(P, Records(0, True, (record.raw,))))
    assert kinds(sent, Records, Q)
    assert not kinds(sent, Records, P)
    assert kinds(world.do(Received(Q, Records(0, True, (record.raw,)))), Prune, Q)
    second = world.store.put(ToyRecord(0, (), b"2"))
    sent = world.do(Published(second.cid, 0, second.raw))
    assert kinds(sent, Records, P)
    assert not kinds(sent, Records, Q)
    assert kinds(world.tick(0.1), Have, Q) == [Have(False, (second.cid,))]
    third = ToyRecord(0, (), b"3")
    assert not kinds(world.do(Received(Q, Have(False, (third.cid,)))), Want)
    (want,) = kinds(world.tick(GRAFT_DELAY_S + 0.01), Want, Q)
    assert want.graft
    world.do(Received(Q, Want(1, True, (second.cid,))))
    assert world.core.peers[Q].eager


def test_strangers_cannot_point_us_into_private_networks():
    assert advertisable("93.184.216.34", "198.51.100.7")
    for host in (
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "0.0.0.0",
        "224.0.0.1",
        "localhost",
        "fe80::1",
    ):
        assert not advertisable(host, "93.184.216.34"), host
    assert advertisable("127.0.0.1", "127.0.0.1")
    assert advertisable("10.0.0.1", "10.0.0.2")
    book = Book(ME)
    assert not book.add(Address("93.184.216.34", 1, ME), "93.184.216.34", direct=True)
    assert book.add(Address("93.184.216.34", 1, P), "93.184.216.34", direct=True)
    assert not book.add(Address("93.184.216.35", 9, P), "93.184.216.34", direct=False), "hearsay"
    for number in range(1_000):
        book.add(Address("93.184.216.34", 1, number.to_bytes(32, "big")), "93.184.216.34", direct=False)
    assert len(book) == 256


def test_a_peer_that_dialled_us_is_told_to_others():
    world = World()
    world.join(P)
    sent = world.join(Q, port=9_000)
    assert kinds(sent, Addresses, P) == [Addresses((Address("127.0.0.1", 9_000, Q),))]


def test_a_blob_is_kept_only_when_every_hash_is_right():
    data = bytes(CHUNK_SIZE_BYTES) + b"tail"
    parts = [data[:CHUNK_SIZE_BYTES], data[CHUNK_SIZE_BYTES:]]
    digests = [Cid.of(part, RAW).digest for part in parts]
    manifest = encode({"size": len(data), "chunk": CHUNK_SIZE_BYTES, "chunks": digests})
    cid = Cid.of(manifest)
    fetcher = Fetcher()
    fetcher.peer_up(P, 0.0)
    fetcher.peer_up(Q, 0.0)
    asks = fetcher.start(cid, (Q,), 0.0)
    assert [(ask.peer, ask.want.index) for ask in asks] == [(Q, MANIFEST), (P, MANIFEST)]
    with pytest.raises(RemoteProtocolError):
        fetcher.part(P, BlobPart(cid, MANIFEST, encode({"size": 1, "chunk": 1, "chunks": []})), 0.1)
    (opened,) = (
        item for item in fetcher.part(Q, BlobPart(cid, MANIFEST, manifest), 0.1) if isinstance(item, Open)
    )
    asks = fetcher.opened(cid, opened.manifest, [0, 1], 0.2)
    by_index = {ask.want.index: ask.peer for ask in asks if isinstance(ask, Ask)}
    assert set(by_index.values()) == {P, Q}, "from both at once"
    with pytest.raises(RemoteProtocolError):
        fetcher.part(by_index[0], BlobPart(cid, 0, b"wrong"), 0.3)
    again = fetcher.peer_down(by_index[0], 0.4)
    assert [(ask.peer, ask.want.index) for ask in again if isinstance(ask, Ask)] == [(by_index[1], 0)]
    for index in (0, 1):
        effects = fetcher.part(by_index[1], BlobPart(cid, index, parts[index]), 0.5)
        (write,) = (item for item in effects if isinstance(item, Write))
        done = fetcher.written(cid, index)
    assert write.data == parts[1]
    assert done == [Finish(cid)]
    assert fetcher.part(by_index[1], BlobPart(cid, 1, parts[1]), 0.6) == [], (
        "what nobody asked for is not kept"
    )


def test_absent_and_late_parts_go_elsewhere_and_requests_are_few():
    cid = Cid.of(b"small", RAW)
    fetcher = Fetcher()
    for peer in (P, Q):
        fetcher.peer_up(peer, 0.0)
    (ask,) = fetcher.start(cid, (P,), 0.0)
    assert ask.peer == P
    (ask,) = fetcher.part(P, BlobPart(cid, 0, None), 0.1)
    assert ask.peer == Q
    assert fetcher.tick(1.0) == []
    (ask,) = fetcher.tick(15.1)
    assert ask.peer == P
    many = Fetcher()
    many.peer_up(P, 0.0)
    asked = [item for n in range(50) for item in many.start(Cid.of(b"%d" % n, RAW), (), 0.0)]
    assert len(asked) == BLOB_INFLIGHT_MAX


def test_size_limits_are_known_before_a_byte_is_kept():
    huge = encode({"size": 1 << 40, "chunk": CHUNK_SIZE_BYTES, "chunks": [b"x" * 32]})
    fetcher = Fetcher()
    fetcher.peer_up(P, 0.0)
    fetcher.start(Cid.of(huge), (), 0.0)
    with pytest.raises(RemoteProtocolError):
        fetcher.part(P, BlobPart(Cid.of(huge), MANIFEST, huge), 0.1)


def test_a_random_stream_of_valid_messages_never_breaks_the_core():
    rng = Random(17)
    print("seed 17")
    world = World(chain(50))
    world.join(P)
    pool = [*world.store.records, *(Cid.of(rng.randbytes(8)) for _ in range(50))]

    def some():
        return tuple(rng.sample(pool, k=rng.randint(1, 20)))

    def raws():
        return tuple(record.raw for record in chain(rng.randint(0, 60), seed=rng.randint(0, 3)))

    makers = [
        lambda: Have(rng.random() < 0.5, some()),
        lambda: Want(rng.randint(1, 9), rng.random() < 0.5, some()),
        lambda: Records(rng.randint(0, 9), True, raws()),
        Prune,
        lambda: Recon(rng.randint(1, 9), rng.randint(0, 63), recon.encode_ranges([recon.Range(None, recon.MORE)])),
        lambda: ReconReply(rng.randint(1, 9), rng.randint(0, 9), b""),
    ]  # fmt: skip
    for _ in range(600):
        message = messages.decode(messages.encode(rng.choice(makers)()))
        world.do(Received(P, message))
        world.tick(rng.uniform(0, 0.3))
    assert not world.drops
