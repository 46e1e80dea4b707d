"""What happens to the protocol core, and what it asks its driver to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NewType, Protocol, TypeVar

from spore_borg.protocol.messages import Address, Message
from spore_borg.records.cid import Cid

NodeId = NewType("NodeId", bytes)  # 32 bytes, Ed25519 public key of a node


T = TypeVar("T")


class Chance(Protocol):
    """The only source of chance; a seeded ``random.Random`` is one."""

    def choice(self, seq: Sequence[T], /) -> T:
        """One of them."""
        ...

    def sample(self, population: Sequence[T], /, k: int) -> list[T]:
        """``k`` different ones."""
        ...

    def uniform(self, a: float, b: float, /) -> float:
        """A number between ``a`` and ``b``."""
        ...


class RecordIndex(Protocol):
    """What the core may ask of the store; the store has it, the core never imports the store."""

    def has(self, cid: Cid) -> bool:
        """Whether the record of this id is stored."""
        ...

    def missing(self, cids: Sequence[Cid]) -> list[Cid]:
        """Those of ``cids`` that are not stored, in the order given."""
        ...

    def raw(self, cid: Cid) -> bytes | None:
        """The canonical bytes of a record, or None."""
        ...

    def seq_of(self, cid: Cid) -> int | None:
        """Its place in the order of arrival here (parents first), or None."""
        ...

    def keys(self) -> Iterable[tuple[int, bytes]]:
        """(epoch, 32-byte digest) of every record; read once, at the start."""
        ...


class Status(Enum):
    """What became of a record that was offered to the store."""

    STORED = "stored"
    KNOWN = "known"
    MISSING = "missing"  # parents are not here yet: no offence
    REFUSED = "refused"
    NOT_YET = "not-yet"  # its epoch is too far ahead: no offence


@dataclass(frozen=True, slots=True)
class Offered:
    """The store's word on one offered record.

    ``epoch`` is needed for STORED and KNOWN, ``parents`` (those that lack) for MISSING, ``code`` for
    REFUSED. ``offence``: no honest node would have sent this (its signature, shape or bytes are wrong
    whatever else is known), so its sender is dropped.
    """

    cid: Cid
    status: Status
    epoch: int = 0
    parents: tuple[Cid, ...] = ()
    code: str = ""
    offence: bool = False


# --- events -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """An authenticated connection to a peer stands. ``nonce``: 32 fresh secret random bytes."""

    peer: NodeId
    dialed: bool  # by us
    host: str  # IP address of the other end
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to a peer is gone."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Received:
    """A peer's message."""

    peer: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes of Records that were queued for a peer have left this node."""

    peer: NodeId
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Results:
    """The store's answer to one Store effect, in the order of its records."""

    source: NodeId
    results: tuple[Offered, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """A record of this node's own is stored and shall be known to all."""

    cid: Cid
    epoch: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; due every ``core.TICK_S`` seconds."""


Event = Connected | Disconnected | Received | Sent | Results | Published | Tick


# --- effects ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Queue a message for a peer. Report ``Sent`` for every Records once it is written."""

    peer: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class Store:
    """Offer records to the store; its answer comes back as ``Results``."""

    source: NodeId
    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Say Bye with this reason code and close the connection."""

    peer: NodeId
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Try to connect to a node that is known from others."""

    address: Address


Effect = Send | Store | Drop | Dial
