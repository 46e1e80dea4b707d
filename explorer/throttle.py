"""A public mirror's limits: who asks, how often they may, and what the mirror calls itself.

Every client has a bucket of tokens that fills again at a steady rate; a request takes some. Memory is bounded: of so
many clients, the one that has been away longest is forgotten first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from spore_borg.errors import UsageError

RATE_PER_S = 10.0  # tokens a client gets back in a second
BURST = 60.0  # tokens of a client that has been quiet
PAGE_COST = 1.0
FILE_COST = 0.25  # a style sheet: in memory, and asked for once
TABLE_COST = 20.0  # a whole table
CLIENTS_MAX = 20_000
STREAMS_PER_CLIENT = 8
FORWARDED_MAX = 20  # addresses looked at in one X-Forwarded-For
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Mirror:
    """How a public mirror is reached: its address for the world, and the proxies before it."""

    url: str  # scheme and host, no slash at the end
    host: str
    proxies: tuple[Network, ...] = ()


def public_url(text: str, *, path: bool = False) -> tuple[str, str]:
    """``(address without a slash at the end, host)`` of a public address.

    Args:
        path: whether it may lie below a path of its host.
    Raises:
        UsageError: it is no such address.
    """
    try:
        parts = urlsplit(text.strip())
        host, extra = parts.hostname or "", (parts.query, parts.fragment, parts.username)
        port = parts.port
    except ValueError as error:
        raise UsageError(
            detail=f"{text!r} is no address: {error}. Give one like https://mesh.example."
        ) from error
    below = parts.path.rstrip("/")
    fine = not any(c.isspace() or c in "\"'<>\\" for c in text.strip())
    if parts.scheme not in {"http", "https"} or not host or any(extra) or not fine:
        raise UsageError(detail=f"{text!r} is no address of a site. Give one like https://mesh.example.")
    if below and not path:
        detail = f"{text} has a path, and the pages need a host of their own. Give a name like https://mesh.example."
        raise UsageError(detail=detail)
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{below}", host.lower()


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses or networks of proxies.

    Raises:
        UsageError: one of them is neither.
    """
    out = []
    for text in texts:
        try:
            out.append(ipaddress.ip_network(text.strip()))
        except ValueError as error:
            detail = f"{text!r} is no address or network of a proxy: {error}. Give one like 127.0.0.1 or 10.0.0.0/8."
            raise UsageError(detail=detail) from error
    return tuple(out)


def address_of(text: str) -> Address | None:
    """An address as a proxy writes it, with or without a port; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def client_of(peer: str | None, forwarded: str, proxies: tuple[Network, ...]) -> str:
    """Who asks: the peer itself, or, through a trusted proxy, the nearest address that is not one of ours.

    What stands further left in X-Forwarded-For was written by the client and is not believed. An IPv6 client is its
    /64, of which one customer has all.

    Args:
        peer: address at the other end of the connection. forwarded: the header X-Forwarded-For.
        proxies: those whose word counts.
    """
    found = address_of(peer or "")
    for text in reversed(forwarded.split(",")[-FORWARDED_MAX:]):
        if found is None or not any(found in network for network in proxies):
            break
        said = address_of(text)
        if said is None:
            break
        found = said
    if found is None:
        return "unknown"
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


@dataclass(slots=True)
class Bucket:
    """Tokens left, as of a time."""

    tokens: float
    at_s: float


@dataclass(slots=True)
class Throttle:
    """The buckets of all clients."""

    rate_per_s: float = RATE_PER_S
    burst: float = BURST
    clients_max: int = CLIENTS_MAX
    buckets: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)

    def wait_s(self, client: str, cost: float, now_s: float) -> float:
        """Take tokens.

        Args:
            now_s: monotonic time in seconds.
        Returns:
            0 if there were enough; else after how many seconds there will be, and none was taken.
        """
        bucket = self.buckets.get(client)
        if bucket is None:
            bucket = self.buckets[client] = Bucket(self.burst, now_s)
            if len(self.buckets) > self.clients_max:
                self.buckets.popitem(last=False)
        else:
            self.buckets.move_to_end(client)
        bucket.tokens = min(self.burst, bucket.tokens + max(0.0, now_s - bucket.at_s) * self.rate_per_s)
        bucket.at_s = now_s
        if bucket.tokens < cost:
            return (cost - bucket.tokens) / self.rate_per_s
        bucket.tokens -= cost
        return 0.0
