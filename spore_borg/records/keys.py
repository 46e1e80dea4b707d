"""Ed25519 keys through PyNaCl, with the strict checks that consensus needs.

A record is valid on every node or on none, so the rules are exact: S is canonical and R is compared as
bytes (libsodium does both), keys must lie in the prime-order subgroup and be encoded canonically.
Source: RFC 8032; Chalkias et al., "Taming the many EdDSAs"; spec/10-records.md.
"""

from __future__ import annotations

import base64
import functools
import hashlib

from nacl import bindings
from nacl.exceptions import BadSignatureError

_P = 2**255 - 19


class SigningKey:
    """A secret Ed25519 key. Never printed, never pickled, never part of a record."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)

    def sign(self, message: bytes) -> bytes:
        """64 bytes of signature over the message."""
        return bindings.crypto_sign(message, self._secret)[:64]

    def derive(self, purpose: str) -> bytes:
        """32 secret bytes bound to a purpose (onion seed, salts): one backup restores all of them."""
        seed = self._secret[:32]
        return hashlib.blake2b(purpose.encode(), key=seed, digest_size=32, person=b"sporeborg").digest()

    def __repr__(self) -> str:
        """Shows the public half only."""
        return f"SigningKey(public={node_name(self.public)[:8]})"

    def __reduce__(self) -> str:
        """Refuse to be pickled."""
        raise TypeError("a signing key is never serialised")


@functools.lru_cache(maxsize=65_536)  # the same authors come again and again
def usable(public: bytes) -> bool:
    """Whether 32 bytes are the canonical encoding of a point of prime order (so of neither small nor mixed)."""
    if len(public) != 32 or int.from_bytes(public, "little") & ((1 << 255) - 1) >= _P:
        return False
    return bool(bindings.crypto_core_ed25519_is_valid_point(public))


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a 64-byte signature is the author's over the message."""
    if len(signature) != 64:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public)
    except (BadSignatureError, ValueError):
        return False
    return True


def node_name(public: bytes) -> str:
    """Base32 text of a key, as URLs, tables and people use it (52 characters)."""
    return base64.b32encode(public).decode().lower().rstrip("=")


def parse_node_name(text: str) -> bytes:
    """The 32 bytes behind a node's name.

    Raises:
        ValueError: not 52 characters of base32.
    """
    if len(text) != 52 or not text.isascii() or text != text.lower():
        raise ValueError("a node's name has 52 lower-case base32 characters")
    public = base64.b32decode(text.upper() + "====")
    if node_name(public) != text:
        raise ValueError("not the canonical text of a key")
    return public
