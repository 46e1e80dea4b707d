"""The address book: who can be dialled where. Configured peers are kept elsewhere and never erased."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from spore_borg.limits import ADDRESSES_MAX
from spore_borg.protocol.events import Chance
from spore_borg.protocol.messages import ADDRESSES_MESSAGE_MAX, Address

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.2, 60.0


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def advertisable(host: str, teller: str) -> bool:
    """Whether an address told by the node at IP ``teller`` may be dialled.

    Only IP addresses; and nobody outside a private network may point us at an address inside one.
    """
    address, source = _ip(host), _ip(teller)
    if address is None or address.is_unspecified or address.is_multicast or address.is_link_local:
        return False
    if address.is_loopback:
        return source is not None and source.is_loopback
    if not address.is_global:
        return source is not None and not source.is_global
    return True


class Book:
    """Bounded memory of addresses by node key, with back-off for those that do not answer."""

    def __init__(self, me: bytes) -> None:
        self._me = me
        self._entries: dict[bytes, Address] = {}
        self._due_s: dict[bytes, float] = {}
        self._delay_s: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Address, teller: str, *, direct: bool) -> bool:
        """Remember an address; True when it is new. ``direct``: told by that node itself."""
        if entry.key == self._me or not advertisable(entry.host, teller):
            return False
        known = self._entries.get(entry.key)
        if known == entry or (known is not None and not direct):
            return False  # hearsay does not overwrite
        if known is None and len(self._entries) >= ADDRESSES_MAX:
            if not direct:
                return False
            self.forget(next(iter(self._entries)))
        self._entries[entry.key] = entry
        return True

    def forget(self, key: bytes) -> None:
        """Remove an address."""
        self._entries.pop(key, None)
        self.reached(key)

    def sample(self, rng: Chance, besides: bytes) -> tuple[Address, ...]:
        """Some addresses for a peer, without its own."""
        entries = [entry for key, entry in self._entries.items() if key != besides]
        return tuple(rng.sample(entries, k=min(len(entries), ADDRESSES_MESSAGE_MAX)))

    def due(self, connected: Iterable[bytes], now_s: float, rng: Chance) -> Address | None:
        """An address to dial now; its next try comes later by a growing, jittered delay."""
        busy = set(connected)
        ready = [key for key in self._entries if key not in busy and self._due_s.get(key, 0.0) <= now_s]
        if not ready:
            return None
        key = rng.choice(ready)
        delay_s = min(BACKOFF_S_MAX, 2 * self._delay_s.get(key, BACKOFF_S_MIN / 2))
        self._delay_s[key] = delay_s
        self._due_s[key] = now_s + delay_s * rng.uniform(0.5, 1.5)
        return self._entries[key]

    def reached(self, key: bytes) -> None:
        """The node answered: its next delay is short again."""
        self._delay_s.pop(key, None)
        self._due_s.pop(key, None)
