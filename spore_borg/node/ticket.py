"""Tickets: one line of text that lets somebody join: mesh, address, key, and a one-time invitation.

Format: ``borg1`` and the base32 of canonical DAG-CBOR; a checksum catches a line that was cut off.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

from spore_borg.errors import UsageError
from spore_borg.records.canonical import decode, encode
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import Refused

T = TypeVar("T")
PREFIX = "borg1"
_SIZE_MAX = 2_000
_ADDRESSES_MAX = 8
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a newcomer needs.

    Attributes:
        mesh: cid of the genesis; addresses: (host, port) pairs of the inviting node; key: its 32-byte key.
        invite: the invitation's record and the 32-byte seed of its one-time key, or None.
    """

    mesh: Cid
    addresses: tuple[tuple[str, int], ...]
    key: bytes
    invite: tuple[Cid, bytes] | None

    def text(self) -> str:
        """The line to copy."""
        body = encode(
            {
                "mesh": self.mesh,
                "addresses": [list(address) for address in self.addresses],
                "key": self.key,
                "invite": None if self.invite is None else list(self.invite),
            }
        )
        raw = body + hashlib.sha256(body).digest()[:4]
        return PREFIX + base64.b32encode(raw).decode().lower().rstrip("=")


def parse(text: str) -> Ticket:
    """Read a ticket.

    Raises:
        UsageError: it is not a whole ticket.
    """
    text = text.strip()
    problem = UsageError(
        detail="This is not a whole ticket. Copy the line that `borg ticket` prints, from borg1 to its end."
    )
    if not text.startswith(PREFIX) or len(text) > _SIZE_MAX:
        raise problem
    code = text[len(PREFIX) :].upper()
    try:
        raw = base64.b32decode(code + "=" * (-len(code) % 8))
        body, check = raw[:-4], raw[-4:]
        if hashlib.sha256(body).digest()[:4] != check:
            raise problem
        value = decode(body)
        invite = value["invite"]
        ticket = Ticket(
            mesh=_is(value["mesh"], Cid),
            addresses=tuple(_address(host, port) for host, port in value["addresses"]),
            key=_key(value["key"]),
            invite=None if invite is None else (_is(invite[0], Cid), _key(invite[1])),
        )
        # One ticket has one text: spare bits of base32 and superfluous fields are damage as well.
        if not 1 <= len(ticket.addresses) <= _ADDRESSES_MAX or ticket.text() != text.lower():
            raise problem
        return ticket
    except (binascii.Error, Refused, KeyError, TypeError, ValueError, IndexError) as error:
        raise problem from error


def _address(host: Any, port: Any) -> tuple[str, int]:
    if not _is(host, str) or not host.isprintable() or not 0 < _is(port, int) < 65_536:
        raise ValueError(host)
    return host, port


def _key(value: Any) -> bytes:
    if len(_is(value, bytes)) != _KEY_BYTES:
        raise ValueError("a key of another length")
    return bytes(value)


def _is(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value
