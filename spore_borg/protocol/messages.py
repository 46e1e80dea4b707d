"""Messages: one frozen dataclass each, and their strict encoding.

On the wire a message is the canonical CBOR list ``[number, field, …]`` in the order of the dataclass; lists
of ids and of records are packed into one byte string. Whatever is unknown, mistyped, over a limit or not
canonical is a ``RemoteProtocolError``. Only ids are ever asked for: no message holds a path.
Spec: ``spec/31-messages.md``; vectors: ``spec/vectors/sync/messages.json``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spore_borg.errors import LocalProtocolError, RemoteProtocolError
from spore_borg.limits import (
    CHUNK_SIZE_BYTES,
    FRAME_SIZE_BYTES_MAX,
    HAVE_CIDS_MAX,
    RECORD_SIZE_BYTES_MAX,
    RECORDS_FRAME_BYTES_MAX,
    WANT_CIDS_MAX,
)
from spore_borg.records.canonical import decode as decode_canonical
from spore_borg.records.canonical import encode as encode_canonical
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import Refused

VERSION = 1
NONCE_BYTES = 32
AGENT_BYTES_MAX = 64
HOST_BYTES_MAX = 253
ADDRESSES_MESSAGE_MAX = 32  # addresses in one message
RECORDS_MAX = WANT_CIDS_MAX  # records in one message
BYE_BYTES_MAX = 256
MANIFEST = -1  # the index that asks for a blob's manifest instead of a chunk
CHUNKS_MAX = 1 << 16
NUMBER_MAX = (1 << 63) - 1
_DIGEST_BYTES = 32
_RAW_BYTES_MAX = RECORDS_FRAME_BYTES_MAX + RECORD_SIZE_BYTES_MAX + 4 * RECORDS_MAX
_COMPRESS_FROM_BYTES = 1_024
_HOST = re.compile(r"[0-9A-Za-z.:_-]{1,253}\Z")
_CODE = re.compile(r"[a-z0-9-]{1,64}\Z")
ROLES = ("research", "verify", "sync")


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of both sides.

    ``nonce``: 32 fresh random bytes, half of the key of every reconciliation on this connection.
    ``host``/``port``: where this node listens; an empty host means the address it is seen at; port 0: nowhere.
    """

    version: int
    mesh: Cid
    nonce: bytes
    agent: str
    role: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Bye:
    """The last message: a reason code and one sentence."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers a Ping."""

    number: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where the node of this key can be dialled."""

    host: str
    port: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Addresses:
    """Nodes that the sender knows."""

    entries: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Have:
    """Records that the sender holds. ``now``: ask at once; else the record itself may be on its way."""

    now: bool
    cids: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for records. ``number`` > 0 ties the answers to it; ``graft``: push new records to me again."""

    number: int
    graft: bool
    cids: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Canonical bytes of records. ``answer``: the Want's number, 0 for a push; ``last``: nothing follows."""

    answer: int
    last: bool
    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """Do not push new records to me, announce them: they reach me another way."""


@dataclass(frozen=True, slots=True)
class Recon:
    """The initiator's message of a reconciliation; ``ranges`` as in ``recon.encode_ranges``."""

    session: int
    round: int
    ranges: bytes


@dataclass(frozen=True, slots=True)
class ReconReply:
    """The responder's answer to the Recon of the same session and round; empty ranges: done."""

    session: int
    round: int
    ranges: bytes


@dataclass(frozen=True, slots=True)
class BlobWant:
    """Asks for chunk ``index`` of a blob, or for its manifest (``MANIFEST``)."""

    cid: Cid
    index: int


@dataclass(frozen=True, slots=True)
class BlobPart:
    """The bytes that a BlobWant asked for; ``data`` None: not here."""

    cid: Cid
    index: int
    data: bytes | None


Message = (
    Hello
    | Bye
    | Ping
    | Pong
    | Addresses
    | Have
    | Want
    | Records
    | Prune
    | Recon
    | ReconReply
    | BlobWant
    | BlobPart
)

_NUMBERS: dict[type, int] = {
    Hello: 0,
    Bye: 1,
    Ping: 2,
    Pong: 3,
    Addresses: 4,
    Have: 5,
    Want: 6,
    Records: 7,
    Prune: 8,
    Recon: 9,
    ReconReply: 10,
    BlobWant: 11,
    BlobPart: 12,
}


# --- field checks -----------------------------------------------------------------------------------------


def _bad(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(detail=what)


def _int(value: Any, low: int = 0, high: int = NUMBER_MAX) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _bad(f"a number must lie in {low}…{high}")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _bad("a flag must be true or false")
    return value


def _bytes(value: Any, high: int, low: int = 0) -> bytes:
    if type(value) is not bytes or not low <= len(value) <= high:
        raise _bad(f"a byte string must have {low}…{high} bytes")
    return value


def _text(value: Any, bytes_max: int) -> str:
    if type(value) is not str or len(value.encode()) > bytes_max or not (value.isprintable() or not value):
        raise _bad(f"a text must be printable and have at most {bytes_max} bytes")
    return value


def _cid(value: Any) -> Cid:
    if type(value) is not Cid:
        raise _bad("an id must be a cid")
    return value


def _host(value: Any) -> str:
    if type(value) is not str or not _HOST.match(value):
        raise _bad("a host must be a name or an IP address")
    return value


def _cids(value: Any, count_max: int) -> tuple[Cid, ...]:
    raw = _bytes(value, count_max * _DIGEST_BYTES, _DIGEST_BYTES)
    if len(raw) % _DIGEST_BYTES:
        raise _bad("ids are packed as 32 bytes each")
    return tuple(Cid.from_digest(raw[at : at + _DIGEST_BYTES]) for at in range(0, len(raw), _DIGEST_BYTES))


def _pack_cids(cids: tuple[Cid, ...]) -> bytes:
    return b"".join(cid.digest for cid in cids)


# --- record lists -----------------------------------------------------------------------------------------


def _pack_raws(raws: tuple[bytes, ...]) -> tuple[bool, bytes]:
    packed = b"".join(len(raw).to_bytes(4, "big") + raw for raw in raws)
    if len(packed) < _COMPRESS_FROM_BYTES:
        return False, packed
    squeezed = zlib.compress(packed, 1)
    return (True, squeezed) if len(squeezed) < len(packed) else (False, packed)


def _unpack_raws(squeezed: bool, packed: bytes) -> tuple[bytes, ...]:
    if squeezed:
        stream = zlib.decompressobj()
        try:
            packed = stream.decompress(packed, _RAW_BYTES_MAX)
        except zlib.error as error:
            raise _bad("records are not compressed as said") from error
        if not stream.eof or stream.unused_data:
            raise _bad(f"records unpack to over {_RAW_BYTES_MAX} bytes, or are cut off")
    raws: list[bytes] = []
    at = 0
    while at < len(packed):
        size = int.from_bytes(packed[at : at + 4], "big")
        at += 4
        if not 0 < size <= RECORD_SIZE_BYTES_MAX or at + size > len(packed) or len(raws) >= RECORDS_MAX:
            raise _bad("records are too many, too large, or cut off")
        raws.append(packed[at : at + size])
        at += size
    return tuple(raws)


# --- one decoder for each message -------------------------------------------------------------------------


def _hello(f: list[Any]) -> Hello:
    version = _int(f[0])
    if version != VERSION:
        raise _bad(f"protocol version {version}; this node speaks {VERSION}")
    if type(f[4]) is not str or f[4] not in ROLES:
        raise _bad("a role is research, verify or sync")
    host = "" if f[5] == "" else _host(f[5])
    nonce = _bytes(f[2], NONCE_BYTES, NONCE_BYTES)
    return Hello(version, _cid(f[1]), nonce, _text(f[3], AGENT_BYTES_MAX), f[4], host, _int(f[6], 0, 65_535))


def _addresses(f: list[Any]) -> Addresses:
    entries = f[0]
    if type(entries) is not list or len(entries) > ADDRESSES_MESSAGE_MAX:
        raise _bad(f"at most {ADDRESSES_MESSAGE_MAX} addresses in a message")
    found = []
    for entry in entries:
        if type(entry) is not list or len(entry) != 3:
            raise _bad("an address is host, port and key")
        found.append(Address(_host(entry[0]), _int(entry[1], 1, 65_535), _bytes(entry[2], 32, 32)))
    return Addresses(tuple(found))


def _records(f: list[Any]) -> Records:
    packed = _bytes(f[3], FRAME_SIZE_BYTES_MAX)
    return Records(_int(f[0]), _bool(f[1]), _unpack_raws(_bool(f[2]), packed))


def _blob_part(f: list[Any]) -> BlobPart:
    index = _int(f[1], MANIFEST, CHUNKS_MAX)
    high = FRAME_SIZE_BYTES_MAX if index == MANIFEST else CHUNK_SIZE_BYTES
    return BlobPart(_cid(f[0]), index, None if f[2] is None else _bytes(f[2], high))


def _bye(f: list[Any]) -> Bye:
    if type(f[0]) is not str or not _CODE.match(f[0]):
        raise _bad("a reason code has lower-case letters, digits and dashes")
    return Bye(f[0], _text(f[1], BYE_BYTES_MAX))


def _recon(f: list[Any], kind: type[Recon] | type[ReconReply]) -> Recon | ReconReply:
    return kind(_int(f[0], 1), _int(f[1], 0, 1 << 16), _bytes(f[2], FRAME_SIZE_BYTES_MAX))


_DECODERS: dict[int, tuple[int, Callable[[list[Any]], Message]]] = {
    0: (7, _hello),
    1: (2, _bye),
    2: (1, lambda f: Ping(_int(f[0]))),
    3: (1, lambda f: Pong(_int(f[0]))),
    4: (1, _addresses),
    5: (2, lambda f: Have(_bool(f[0]), _cids(f[1], HAVE_CIDS_MAX))),
    6: (3, lambda f: Want(_int(f[0], 1), _bool(f[1]), _cids(f[2], WANT_CIDS_MAX))),
    7: (4, _records),
    8: (0, lambda _: Prune()),
    9: (3, lambda f: _recon(f, Recon)),
    10: (3, lambda f: _recon(f, ReconReply)),
    11: (2, lambda f: BlobWant(_cid(f[0]), _int(f[1], MANIFEST, CHUNKS_MAX))),
    12: (3, _blob_part),
}


def _fields(message: Message) -> list[Any]:
    match message:
        case Hello(version, mesh, nonce, agent, role, host, port):
            return [version, mesh, nonce, agent, role, host, port]
        case Addresses(entries):
            return [[[entry.host, entry.port, entry.key] for entry in entries]]
        case Have(now, cids):
            return [now, _pack_cids(cids)]
        case Want(number, graft, cids):
            return [number, graft, _pack_cids(cids)]
        case Records(answer, last, raws):
            return [answer, last, *_pack_raws(raws)]
        case Ping(number) | Pong(number):
            return [number]
        case Prune():
            return []
        case Recon(session, turn, ranges) | ReconReply(session, turn, ranges):
            return [session, turn, ranges]
        case BlobWant(cid, index):
            return [cid, index]
        case BlobPart(cid, index, data):
            return [cid, index, data]
        case Bye(code, text):
            return [code, text]


def encode(message: Message) -> bytes:
    """The payload of one message.

    Raises:
        LocalProtocolError: it would not fit into a frame.
    """
    raw = encode_canonical([_NUMBERS[type(message)], *_fields(message)])
    if len(raw) > FRAME_SIZE_BYTES_MAX:
        raise LocalProtocolError(detail=f"a {type(message).__name__} of {len(raw)} bytes")
    return raw


def decode(raw: bytes) -> Message:
    """The message of one payload.

    Raises:
        RemoteProtocolError: not canonical, unknown, mistyped, or over a limit.
    """
    try:
        value = decode_canonical(raw)
    except Refused as error:
        raise _bad(f"a message is {error.code}") from error
    if type(value) is not list or not value or type(value[0]) is not int:
        raise _bad("a message is a list that begins with its number")
    found = _DECODERS.get(value[0])
    if found is None:
        raise _bad(f"message number {value[0]} is unknown")
    count, decoder = found
    if len(value) != count + 1:
        raise _bad(f"message number {value[0]} has {count} fields, not {len(value) - 1}")
    return decoder(value[1:])
