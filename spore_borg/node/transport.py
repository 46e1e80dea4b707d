"""The Transport seam, and its embedded engine: trio TCP with mutual TLS 1.3.

A node is its Ed25519 key. Both ends show a certificate with that key, and TLS itself makes both sign the
whole handshake (CertificateVerify), so a signature is of use on no other connection: nothing can be relayed
or replayed. Python's ``ssl`` can only ask for a client certificate that some authority has issued; so every
certificate is issued by one authority whose private key is public and means nothing. The only thing taken
from a verified certificate is its key. Spec: ``spec/30-transport.md``.
"""

from __future__ import annotations

import datetime
import errno
import functools
import hashlib
import os
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from spore_borg.errors import NodeUnreachable, RemoteProtocolError, UsageError
from spore_borg.limits import HANDSHAKE_TIMEOUT_S, PEERS_MAX
from spore_borg.protocol.frames import FrameDecoder, encode_frame
from spore_borg.records.keys import node_name, usable

READ_BYTES = 1 << 18
UNSENT_BYTES_MAX = 1 << 17  # kept unsent in the kernel: a small message waits behind no more than this
HALF_OPEN_MAX = 2 * PEERS_MAX  # connections whose handshake is not done
PORT_DEFAULT = 8471
PORTS_TRIED = 100  # where the next free port is taken
_AUTHORITY_SEED = hashlib.sha256(b"spore-borg: this authority vouches for nothing").digest()
_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_TO = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)


class PeerUnreachable(NodeUnreachable):
    """No node answers at {address}: {detail}. Check the address, and that the node is running."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``host:port``, ``[v6]:port`` or ``host`` (port 8471).

        Raises:
            UsageError: not an address.
        """
        host, _, port = text.strip().rpartition(":")
        if not host or (":" in host and not host.startswith("[")):
            host, port = text.strip(), str(PORT_DEFAULT)
        host = host.removeprefix("[").removesuffix("]")
        if not host or not (port.isascii() and port.isdigit() and 0 <= int(port) <= 65_535):
            raise UsageError(detail=f"{text!r} is not an address. Write HOST:PORT, like 192.0.2.7:8471.")
        return cls(host, int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Conn(Protocol):
    """An authenticated connection that carries frames."""

    peer: bytes  # the other end's Ed25519 public key, 32 bytes: its node id
    remote: Endpoint  # where the other end is seen

    async def send_frame(self, payload: bytes) -> None:
        """Send one frame; one task at a time."""
        ...

    async def receive_frame(self) -> bytes | None:
        """The next frame's payload, None when the other end has closed; one task at a time."""
        ...

    async def aclose(self) -> None:
        """Close at once, without waiting for the other end."""
        ...


class Transport(Protocol):
    """What carries connections between nodes."""

    async def dial(self, address: Endpoint, expected_key: bytes | None) -> Conn:
        """Connect to a node, which must prove ``expected_key`` when one is given."""
        ...

    async def serve(
        self,
        listen: Endpoint,
        handler: Callable[[Conn], Awaitable[None]],
        task_status: Any = trio.TASK_STATUS_IGNORED,
        *,
        next_free: bool = False,
    ) -> None:
        """Accept connections for ever; reports the address it listens on."""
        ...


# --- certificates -----------------------------------------------------------------------------------------


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


_AUTHORITY_NAME = _name("spore-borg")


def _certificate(
    subject: x509.Name, key: Ed25519PublicKey, issuer: Ed25519PrivateKey, *, authority: bool
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_AUTHORITY_NAME)
        .public_key(key)
        .serial_number(1)
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(
            x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True
        )
        .sign(issuer, None)
    )


@functools.cache
def _authority() -> tuple[Ed25519PrivateKey, str]:
    key = Ed25519PrivateKey.from_private_bytes(_AUTHORITY_SEED)
    certificate = _certificate(_AUTHORITY_NAME, key.public_key(), key, authority=True)
    return key, certificate.public_bytes(serialization.Encoding.PEM).decode()


def _load_identity(context: ssl.SSLContext, certificate: bytes, key: Ed25519PrivateKey) -> None:
    """Give a context our certificate. ``ssl`` reads only files: the key lies there encrypted, for a moment."""
    password = os.urandom(32).hex().encode()
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )
    descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(certificate + sealed)
        context.load_cert_chain(path, password=password)
    finally:
        Path(path).unlink()


def _contexts(seed: bytes) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    authority_key, authority_pem = _authority()
    public = key.public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    certificate = _certificate(_name(node_name(raw)), public, authority_key, authority=False)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    contexts = []
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the key is the name
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authority_pem)
        _load_identity(context, pem, key)
        contexts.append(context)
    contexts[0].num_tickets = 0  # no resumption: every connection proves both keys anew
    return contexts[0], contexts[1]


def _proven_key(stream: Any) -> bytes:
    """The key that the other end has proven in the handshake."""
    der = stream.getpeercert(binary_form=True)
    if stream.version() != "TLSv1.3" or not der:
        raise RemoteProtocolError(detail="no TLS 1.3 with a certificate")
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except ValueError as error:
        raise RemoteProtocolError(detail="its certificate cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RemoteProtocolError(detail="its certificate holds no Ed25519 key")
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if not usable(raw):
        raise RemoteProtocolError(detail="its key is not a usable Ed25519 key")
    return raw


# --- connections ------------------------------------------------------------------------------------------


class TlsConn:
    """A ``Conn`` over one TLS stream."""

    def __init__(self, stream: Any, peer: bytes, remote: Endpoint) -> None:
        self.peer = peer
        self.remote = remote
        self._stream = stream
        self._decoder = FrameDecoder()
        self._frames: list[bytes] = []  # newest first

    async def send_frame(self, payload: bytes) -> None:
        """Send one frame.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the connection is gone.
        """
        await self._stream.send_all(encode_frame(payload))

    async def receive_frame(self) -> bytes | None:
        """The next payload; None when the other end has closed.

        Raises:
            RemoteProtocolError: a frame of a forbidden size. trio.BrokenResourceError: the connection broke.
        """
        while not self._frames:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return None
            self._frames = self._decoder.receive(bytes(data))[::-1]
        return self._frames.pop()

    async def aclose(self) -> None:
        """Close at once; a peer that does not read cannot hold us up."""
        await trio.aclose_forcefully(self._stream)


def _tune(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # bulk waits in our queue, where small messages overtake it
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)


class TlsTransport:
    """The embedded engine.

    Args:
        seed: the 32-byte seed of this node's Ed25519 identity.
        handshake_timeout_s: a handshake that takes longer is cut off.
    """

    def __init__(self, seed: bytes, *, handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S) -> None:
        self._server_context, self._client_context = _contexts(seed)
        self._timeout_s = handshake_timeout_s

    async def _secure(self, tcp: trio.SocketStream, remote: Endpoint, *, server: bool) -> TlsConn:
        """Run the handshake on a fresh TCP connection; closes it when that fails."""
        try:
            _tune(tcp)
            context = self._server_context if server else self._client_context
            stream = trio.SSLStream(tcp, context, server_side=server, https_compatible=True)
            await stream.do_handshake()
            return TlsConn(stream, _proven_key(stream), remote)
        except BaseException:
            await trio.aclose_forcefully(tcp)
            raise

    async def dial(self, address: Endpoint, expected_key: bytes | None) -> Conn:
        """Connect; the other end must prove ``expected_key`` when one is given.

        Raises:
            PeerUnreachable: nobody answers in time, or it does not speak TLS 1.3 as nodes do.
            RemoteProtocolError: it answers with another key.
        """
        try:
            with trio.fail_after(self._timeout_s):
                tcp = await trio.open_tcp_stream(address.host, address.port)
                conn = await self._secure(tcp, address, server=False)
        except trio.TooSlowError as error:
            raise PeerUnreachable(
                home="", address=address, detail=f"no answer in {self._timeout_s:g} s"
            ) from error
        except (
            OSError,
            UnicodeError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            ssl.SSLError,
        ) as error:  # UnicodeError: a name that cannot be looked up, like a..b; addresses come from strangers
            raise PeerUnreachable(home="", address=address, detail=_why(error)) from error
        if expected_key is not None and conn.peer != expected_key:
            await conn.aclose()
            raise RemoteProtocolError(detail=f"the node at {address} has another key: {node_name(conn.peer)}")
        return conn

    async def serve(
        self,
        listen: Endpoint,
        handler: Callable[[Conn], Awaitable[None]],
        task_status: Any = trio.TASK_STATUS_IGNORED,
        *,
        next_free: bool = False,
    ) -> None:
        """Accept connections and run ``handler`` on each whose other end has proven its key.

        Args:
            next_free: if the port is taken, take the next one that is not.
        Raises:
            UsageError: the address cannot be listened on.
        """
        half_open = 0

        async def accept(tcp: trio.SocketStream) -> None:
            nonlocal half_open
            if half_open >= HALF_OPEN_MAX:
                await trio.aclose_forcefully(tcp)
                return
            half_open += 1
            conn = None
            try:
                with trio.move_on_after(self._timeout_s):
                    host, port = tcp.socket.getpeername()[:2]
                    conn = await self._secure(tcp, Endpoint(host, port), server=True)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
                return  # a stranger that is no node; it is told nothing
            except RemoteProtocolError:
                return
            finally:
                half_open -= 1
            if conn is not None:
                try:
                    await handler(conn)
                finally:
                    with trio.CancelScope(shield=True):
                        await conn.aclose()

        listeners = await _listeners(listen, PORTS_TRIED if next_free and listen.port else 1)
        async with trio.open_nursery() as nursery:
            port = listeners[0].socket.getsockname()[1]
            task_status.started(Endpoint(listen.host, port))
            await trio.serve_listeners(accept, listeners, handler_nursery=nursery)


async def _listeners(listen: Endpoint, tries: int) -> list[trio.SocketListener]:
    """Listeners on the port, or on the first free one of ``tries`` from there. Raises UsageError."""
    last = min(listen.port + tries - 1, 65_535)
    for port in range(listen.port, last + 1):
        try:
            return await trio.open_tcp_listeners(port, host=listen.host or None)
        except OSError as error:
            if port == last or error.errno != errno.EADDRINUSE:
                raise UsageError(
                    detail=f"Cannot listen on {listen}: {_why(error)}. Choose another with --listen."
                ) from error
    raise AssertionError("there is a first port")


def _why(error: BaseException) -> str:
    """One short line on an operating-system or TLS error."""
    cause: BaseException = error
    while not isinstance(cause, OSError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UnicodeError):
        return "that is no host name"
    if isinstance(cause, ssl.SSLError):
        return cause.reason or "TLS failed"
    if isinstance(cause, OSError):
        return cause.strerror or str(cause) or type(cause).__name__
    return "the connection broke"
