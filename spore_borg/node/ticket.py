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
        return Ticket(
            mesh=_is(value["mesh"], Cid),
            addresses=tuple((_is(host, str), _is(port, int)) for host, port in value["addresses"]),
            key=_is(value["key"], bytes),
            invite=None if invite is None else (_is(invite[0], Cid), _is(invite[1], bytes)),
        )
    except (binascii.Error, Refused, KeyError, TypeError, ValueError, IndexError) as error:
        raise problem from error


def _is(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value
