"""Content identifiers: CIDv1, sha2-256, base32 text.

Only a real CIDv1 is called a cid here. Source: multiformats CIDv1; spec/10-records.md.
"""

from __future__ import annotations

import base64
import hashlib
import re

DAG_CBOR = 0x71
RAW = 0x55
_SHA2_256 = b"\x12\x20"  # multihash code and digest length
_CODECS = (DAG_CBOR, RAW)
_TEXT = re.compile(r"b[a-z2-7]{58}\Z")


class Cid(bytes):
    """The 36 binary bytes of a CIDv1: version, codec, multihash code, length, 32-byte digest."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Cid:
        """Take 36 binary bytes.

        Raises:
            ValueError: not a CIDv1 of dag-cbor or raw with sha2-256.
        """
        if len(raw) != 36 or raw[0] != 1 or raw[1] not in _CODECS or raw[2:4] != _SHA2_256:
            raise ValueError("not a CIDv1 (dag-cbor or raw, sha2-256)")
        return super().__new__(cls, raw)

    @classmethod
    def of(cls, block: bytes, codec: int = DAG_CBOR) -> Cid:
        """The cid of a block of bytes."""
        return cls(bytes((1, codec)) + _SHA2_256 + hashlib.sha256(block).digest())

    @classmethod
    def from_digest(cls, digest: bytes, codec: int = DAG_CBOR) -> Cid:
        """The cid whose sha2-256 digest (32 bytes) is already known."""
        return cls(bytes((1, codec)) + _SHA2_256 + digest)

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Read the base32 text form (59 characters, ``b…``).

        Raises:
            ValueError: not such a text, or its spare bits are not zero.
        """
        if not _TEXT.match(text):
            raise ValueError("not the text of a cid: 59 lower-case characters that begin with b")
        cid = cls(base64.b32decode(text[1:].upper() + "=" * 6))
        if str(cid) != text:  # base32 has spare bits: two texts must never mean one cid
            raise ValueError("not the canonical text of a cid")
        return cid

    @property
    def digest(self) -> bytes:
        """The 32-byte sha2-256 digest."""
        return self[4:]

    @property
    def codec(self) -> int:
        """``DAG_CBOR`` or ``RAW``."""
        return self[1]

    def __str__(self) -> str:
        """Base32 text."""
        return "b" + base64.b32encode(self).decode().lower().rstrip("=")

    def __repr__(self) -> str:
        """Short form for logs."""
        return f"Cid({str(self)[-8:]})"
