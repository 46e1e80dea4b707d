"""Real nodes on loopback, without research: hub, log on disk, TLS 1.3, protocol core; what crosses is counted."""

from __future__ import annotations

import socket
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from spore_borg.home import Home
from spore_borg.node.hub import Hub
from spore_borg.node.peers import Peers
from spore_borg.node.transport import Endpoint, TlsConn, TlsTransport
from spore_borg.protocol import messages
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.records.keys import SigningKey
from spore_borg.store.log import Log

BATCH = 1_000
POLL_S = 0.003
# Bytes acknowledged and bytes received lie here in struct tcp_info: Linux, include/uapi/linux/tcp.h.
TCP_INFO_AT = 120


def room() -> str | None:
    """A directory in memory, where there is one: for measurements of CPU and bytes, which a slow disk only delays."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def tcp_bytes(stream: socket.socket) -> int:
    """Bytes that this connection has carried, both ways, without TCP's own headers."""
    sent, received = struct.unpack_from("<QQ", stream.getsockopt(socket.IPPROTO_TCP, 11, 256), TCP_INFO_AT)
    return int(sent) + int(received)


class Counting(TlsTransport):
    """The embedded engine; remembers its connections and what they sent."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.dialed: list[TlsConn] = []
        self.sent: list[bytes] = []

    async def _secure(self, tcp: trio.SocketStream, remote: Endpoint, *, server: bool) -> TlsConn:
        conn = await super()._secure(tcp, remote, server=server)
        if not server:
            self.dialed.append(conn)
        send = conn.send_frame

        async def counted(payload: bytes) -> None:
            self.sent.append(payload)
            await send(payload)

        conn.send_frame = counted  # type: ignore[method-assign]
        return conn

    def bytes(self) -> int:
        """Bytes on the connections that this side dialled, both ways, with TLS and its handshake."""
        return sum(tcp_bytes(conn._stream.transport_stream.socket._sock) for conn in self.dialed)

    def messages(self, kind: type) -> list[Any]:
        """Sent messages of one kind."""
        return [message for message in map(messages.decode, self.sent) if isinstance(message, kind)]


_prepared: dict[int, bytes] = {}  # a list of records, by identity → the log file that holds them


def log_file(records: list[Record], room: Path) -> bytes:
    """A log that holds these records, written once and copied to the nodes that start with it."""
    if id(records) not in _prepared:
        path = room / "prepared.sqlite"
        with Log(path) as log:
            for start in range(0, len(records), BATCH):
                log.append(records[start : start + BATCH])
        _prepared[id(records)] = path.read_bytes()  # closing has merged the write-ahead log
        path.unlink()
    return _prepared[id(records)]


class Node:
    """One node over a home directory that already holds some records."""

    def __init__(self, number: int, records: list[Record], genesis: Cid, where: str | None) -> None:
        self.directory = tempfile.TemporaryDirectory(dir=where)
        seed = bytes([number + 1]) * 32
        home = Home(Path(self.directory.name)).create()
        home.log.write_bytes(log_file(records, home.path))
        self.hub = Hub(home, SigningKey(seed), genesis)
        self.wire = Counting(seed)
        self.stored: dict[Cid, float] = {}  # when ``offer`` had it on the disk
        self.peers = Peers(
            seed,
            genesis,
            self.hub.log,
            self,
            self.hub.blobs,
            listen=Endpoint("127.0.0.1", 0),
            transport=self.wire,
        )
        self.hub.on_own = self.peers.publish

    async def offer(self, raws: list[bytes], source: bytes) -> Any:
        """As the hub does it, with the time."""
        outcomes = await self.hub.offer(raws, source)
        now = time.perf_counter()
        for outcome in outcomes:
            self.stored.setdefault(outcome.cid, now)
        return outcomes

    def dial(self, other: Node) -> None:
        """Connect to a running node, and stay so."""
        assert other.peers.address is not None
        self.peers.connect(other.peers.address, other.hub.me)

    def close(self) -> None:
        """Close the files and remove the directory."""
        self.hub.close()
        self.directory.cleanup()


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for something.

    Raises:
        trio.TooSlowError: it did not come in time.
    """
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of the bench
            await trio.sleep(POLL_S)
