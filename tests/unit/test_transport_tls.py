"""Real sockets on loopback: who is proven, who is cut off, and that others go on meanwhile."""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from spore_borg.errors import NotFound, RemoteProtocolError
from spore_borg.limits import PEER_QUEUE_BYTES_MAX
from spore_borg.node import transport as transport_module
from spore_borg.node.download import TooLarge
from spore_borg.node.peers import Peers
from spore_borg.node.transport import Endpoint, PeerUnreachable, TlsTransport
from spore_borg.protocol import messages
from spore_borg.protocol.frames import encode_frame
from spore_borg.protocol.messages import BlobWant, Bye, Hello, Ping, Want
from spore_borg.records.cid import Cid
from spore_borg.records.keys import SigningKey
from spore_borg.sim.toy import ToyRecord, ToyStore, chain
from spore_borg.store.blobs import Blobs

MESH = Cid.of(b"mesh")
HERE = Endpoint("127.0.0.1", 0)
KEY_A, KEY_B = (SigningKey(seed * 32).public for seed in (b"a", b"b"))


def run(main, seconds=30.0):
    async def bounded():
        with trio.fail_after(seconds):
            await main()

    trio.run(bounded)


async def until(condition, seconds=10.0):
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a test watches from outside
            await trio.sleep(0.005)


@asynccontextmanager
async def serving(handler, **options):
    server = TlsTransport(b"a" * 32, **options)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(server.serve, HERE, handler)
        nursery.cancel_scope.cancel()


def node(seed, store, directory, **options):
    return Peers(seed * 32, MESH, store, store, Blobs(directory / seed.decode()), listen=HERE, **options)


def test_both_keys_are_proven_and_frames_go_both_ways():
    seen = []

    async def echo(conn):
        seen.append(conn.peer)
        while (frame := await conn.receive_frame()) is not None:
            await conn.send_frame(frame)

    async def main():
        async with serving(echo) as address:
            conn = await TlsTransport(b"b" * 32).dial(address, KEY_A)
            assert conn.peer == KEY_A
            for size in (1, 1_000, 300_000):
                await conn.send_frame(bytes(size))
                assert await conn.receive_frame() == bytes(size)
            assert seen == [KEY_B]
            await conn.aclose()

    run(main)


def test_a_wrong_key_is_refused_by_the_dialler():
    async def main():
        async with serving(lambda conn: conn.receive_frame()) as address:
            with pytest.raises(RemoteProtocolError, match="another key"):
                await TlsTransport(b"b" * 32).dial(address, KEY_B)

    run(main)


def test_nobody_there_is_a_clear_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def main():
        with pytest.raises(PeerUnreachable, match=f"127.0.0.1:{port}"):
            await TlsTransport(b"b" * 32).dial(Endpoint("127.0.0.1", port), None)

    run(main)


async def refused(tcp):
    """The other end closes, whatever it says before."""
    try:
        with trio.fail_after(3):
            while await tcp.receive_some(65_536):
                pass
    except trio.BrokenResourceError:
        pass  # a reset closes as well
    await trio.aclose_forcefully(tcp)


def client_context(**changes):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in changes.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize("kind", ["no certificate", "own authority", "tls 1.2"])
def test_a_client_that_proves_no_key_never_reaches_the_handler(kind, monkeypatch):
    reached = []

    async def handler(conn):
        reached.append(conn.peer)

    context = client_context()
    if kind == "tls 1.2":
        context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    if kind == "own authority":
        other = transport_module.Ed25519PrivateKey.from_private_bytes(b"o" * 32)
        with monkeypatch.context() as patch:
            pem = transport_module._authority()[1]
            patch.setattr(transport_module, "_authority", lambda: (other, pem))
            context = TlsTransport(b"b" * 32)._client_context

    async def main():
        async with serving(handler) as address:
            tcp = await trio.open_tcp_stream(address.host, address.port)
            stream = trio.SSLStream(tcp, context, https_compatible=True)
            try:
                await stream.do_handshake()
                await stream.send_all(encode_frame(b"hello"))
            except trio.BrokenResourceError:
                pass  # the server's alert may come during either
            await refused(tcp)
            assert not reached

    run(main)


def test_a_certificate_of_somebody_elses_key_is_worthless():
    """The certificate of another node with a key of one's own: TLS signs with the wrong key."""
    victim = transport_module.Ed25519PrivateKey.from_private_bytes(b"v" * 32)
    authority, _ = transport_module._authority()
    certificate = transport_module._certificate(
        transport_module._name("victim"), victim.public_key(), authority, authority=False
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mine = transport_module.Ed25519PrivateKey.from_private_bytes(b"m" * 32)
    pem = certificate.public_bytes(transport_module.serialization.Encoding.PEM)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        transport_module._load_identity(context, pem, mine)


def test_a_replayed_handshake_proves_nothing():
    reached = []
    heard = bytearray()

    async def handler(conn):
        reached.append(conn.peer)
        await conn.receive_frame()

    async def main():
        async with serving(handler) as address:

            async def record(client):
                upstream = await trio.open_tcp_stream(address.host, address.port)

                async def pipe(source, sink, keep):
                    try:
                        async for data in source:
                            if keep:
                                heard.extend(data)
                            await sink.send_all(data)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass  # the honest client has left

                async with client, upstream, trio.open_nursery() as pipes:
                    pipes.start_soon(pipe, client, upstream, True)
                    pipes.start_soon(pipe, upstream, client, False)

            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, record, 0)
                port = listeners[0].socket.getsockname()[1]
                conn = await TlsTransport(b"b" * 32).dial(Endpoint("127.0.0.1", port), KEY_A)
                await conn.send_frame(b"hello")
                await until(lambda: len(reached) == 1)
                await conn.aclose()
                nursery.cancel_scope.cancel()
            tcp = await trio.open_tcp_stream(address.host, address.port)
            await tcp.send_all(bytes(heard))
            await refused(tcp)
            assert reached == [KEY_B]

    run(main)


def test_a_slow_handshake_is_cut_off_and_others_come_in():
    reached = []

    async def handler(conn):
        reached.append(conn.peer)

    async def main():
        async with serving(handler, handshake_timeout_s=0.4) as address:
            held = [await trio.open_tcp_stream(address.host, address.port) for _ in range(50)]
            for stream in held:
                await stream.send_all(b"\x16\x03\x01")
            await (await TlsTransport(b"b" * 32).dial(address, KEY_A)).aclose()
            await until(lambda: reached == [KEY_B])
            began = trio.current_time()
            for stream in held:
                try:
                    assert await stream.receive_some(1) == b""
                except trio.BrokenResourceError:
                    pass  # reset is as good
            assert trio.current_time() - began < 2
            for stream in held:
                await stream.aclose()

    run(main)


def test_random_bytes_to_the_port_do_no_harm(tmp_path):
    rng = Random(23)
    print("seed 23")

    async def main():
        store = ToyStore(chain(20))
        a = node(b"a", store, tmp_path)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            for number in range(60):
                tcp = await trio.open_tcp_stream(address.host, address.port)
                start = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" if number % 3 == 0 else b""
                try:
                    await tcp.send_all(start + rng.randbytes(rng.choice([1, 10, 100, 5_000])))
                except trio.BrokenResourceError:
                    pass  # cut off while we still wrote
                await trio.aclose_forcefully(tcp)
            other = ToyStore()
            b = node(b"b", other, tmp_path, peers=[(address, a.me)])
            await nursery.start(b.run)
            await until(lambda: len(other.records) == 20)
            nursery.cancel_scope.cancel()

    run(main)


async def stranger(address, seed=b"s"):
    """An authenticated peer played by hand; has said Hello."""
    conn = await TlsTransport(seed * 32).dial(address, None)
    await conn.send_frame(messages.encode(Hello(1, MESH, os.urandom(32), "stranger", "sync", "", 0)))
    return conn


@pytest.mark.parametrize(
    "payload",
    [
        b"junk",
        messages.encode(Ping(1))[:-1] + b"\xf6",
        b"\x81\x18\x63",
        messages.encode(Hello(1, MESH, b"2" * 32, "", "sync", "", 0)),
    ],
    ids=["junk", "wrong type", "unknown", "second hello"],
)  # fmt: skip
def test_a_peer_that_breaks_the_protocol_is_dropped_and_told_only_a_code(payload, tmp_path):
    async def main():
        a = node(b"a", ToyStore(), tmp_path)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            conn = await stranger(address)
            await until(lambda: len(a.status()) == 1)
            await conn.send_frame(payload)
            last = None
            while (frame := await conn.receive_frame()) is not None:
                last = messages.decode(frame)
            assert last == Bye("protocol", "")
            await until(lambda: not a.links)
            again = await stranger(address)
            assert await again.receive_frame() is None, "not spoken to for a while"
            await again.aclose()
            await conn.aclose()
            nursery.cancel_scope.cancel()

    run(main)


def test_an_oversized_frame_drops_its_sender(tmp_path):
    async def main():
        a = node(b"a", ToyStore(), tmp_path)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            conn = await stranger(address)
            await conn._stream.send_all(b"\xff\xff\xff\xff")
            await until(lambda: not a.links)
            await conn.aclose()
            nursery.cancel_scope.cancel()

    run(main)


def test_a_reader_that_never_reads_is_dropped_while_others_receive(tmp_path):
    async def main():
        store, other = ToyStore(), ToyStore()
        a = node(b"a", store, tmp_path)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            b = node(b"b", other, tmp_path, peers=[(address, a.me)])
            await nursery.start(b.run)
            deaf = await stranger(address)
            await until(lambda: len(a.status()) == 2)
            slowest = 0.0
            for number in range(PEER_QUEUE_BYTES_MAX // 60_000 * 3):
                record = store.put(ToyRecord(0, (), number.to_bytes(8, "big") + os.urandom(60_000)))
                began = time.perf_counter()
                a.publish([record])
                slowest = max(slowest, time.perf_counter() - began)
                await until(lambda cid=record.cid: other.has(cid))
            assert slowest < 0.5, "publishing never waits for a peer"
            assert deaf.peer == a.me
            await until(
                lambda: [row["node"] for row in a.status()] == [b.status()[0]["node"]] or len(a.links) == 1
            )
            await deaf.aclose()
            nursery.cancel_scope.cancel()

    run(main, 60)


def test_a_blob_goes_on_after_an_interruption_and_gossip_overtakes_it(tmp_path):
    async def main():
        store, other = ToyStore(), ToyStore()
        a = node(b"a", store, tmp_path)
        blobs = Blobs(tmp_path / "a")
        data = os.urandom(12 << 20)
        cid = blobs.put_bytes(data)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            mine = Blobs(tmp_path / "b")
            partial = mine.begin(cid, blobs.manifest(cid))
            for index in range(20):
                partial.write(index, blobs.read_chunk(cid, index))
            b = node(b"b", other, tmp_path, peers=[(address, a.me)])
            await nursery.start(b.run)
            with pytest.raises(TooLarge, match=f"{len(data)} bytes"):
                await b.fetch_blob(cid, [a.me], timeout_s=10, most_bytes=len(data) - 1)
            path = await b.fetch_blob(cid, [a.me], timeout_s=10, most_bytes=len(data))
            assert path.read_bytes() == data
            with pytest.raises(NotFound, match="borg peers"):
                await b.fetch_blob(Cid.of(b"nobody has it"), timeout_s=0.3)
            nursery.cancel_scope.cancel()

    run(main)


def test_too_many_blob_requests_end_the_connection(tmp_path):
    async def main():
        a = node(b"a", ToyStore(), tmp_path)
        cid = Blobs(tmp_path / "a").put_bytes(os.urandom(3 << 20))
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            conn = await stranger(address)
            for _ in range(200):
                try:
                    await conn.send_frame(messages.encode(BlobWant(cid, 0)))
                except trio.BrokenResourceError:
                    break
            await until(lambda: not a.links)
            await conn.aclose()
            nursery.cancel_scope.cancel()

    run(main)


def test_two_that_dial_each_other_keep_one_connection_and_reconnect(tmp_path):
    async def main():
        stores = [ToyStore(chain(30)), ToyStore()]
        a = node(b"a", stores[0], tmp_path)
        b = node(b"b", stores[1], tmp_path)
        async with trio.open_nursery() as nursery:
            at_a = await nursery.start(a.run)
            at_b = await nursery.start(b.run)
            a.connect(at_b, b.me)
            b.connect(at_a)
            await until(lambda: len(stores[1].records) == 30)
            await until(lambda: len(a.status()) == len(b.status()) == 1)
            assert {a.status()[0]["direction"], b.status()[0]["direction"]} == {"in", "out"}
            a.links[b.me].scope.cancel()
            late = stores[0].put(ToyRecord(0, (), b"late"))
            a.publish([late])
            await until(lambda: stores[1].has(late.cid))
            nursery.cancel_scope.cancel()

    run(main)


def test_a_want_flood_leaves_the_node_answering(tmp_path):
    async def main():
        store = ToyStore([ToyRecord(0, (), bytes([n]) + bytes(50_000)) for n in range(100)])
        a = node(b"a", store, tmp_path)
        async with trio.open_nursery() as nursery:
            address = await nursery.start(a.run)
            conn = await stranger(address)
            cids = tuple(store.records)
            for number in range(1, 200):
                await conn.send_frame(messages.encode(Want(number, False, cids)))
            other = ToyStore()
            b = node(b"b", other, tmp_path, peers=[(address, a.me)])
            await nursery.start(b.run)
            await until(lambda: len(other.records) == 100)
            assert all(link.queued_bytes <= PEER_QUEUE_BYTES_MAX for link in a.links.values())
            await conn.aclose()
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize(
    ("text", "host", "port"), [("[::1]:9", "::1", 9), ("h:1", "h", 1), ("h", "h", 8471), ("::1", "::1", 8471)]
)
def test_addresses_are_read(text, host, port):
    assert Endpoint.parse(text) == Endpoint(host, port)
