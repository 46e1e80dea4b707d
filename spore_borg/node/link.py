"""One connection to one peer: its outgoing queues, its writer, and what it may pull.

Small messages overtake blob parts: at most one blob part is queued at a time, and the kernel keeps little
unsent (``transport.UNSENT_BYTES_MAX``), so gossip waits behind no more than one chunk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import trio

from spore_borg.limits import (
    BLOB_INFLIGHT_MAX,
    BLOB_SERVE_BYTES_PER_S,
    PEER_IDLE_TIMEOUT_S,
    PEER_QUEUE_BYTES_MAX,
)
from spore_borg.node.transport import Conn
from spore_borg.protocol import messages
from spore_borg.protocol.events import NodeId
from spore_borg.protocol.messages import BlobWant, Bye, Message, Records
from spore_borg.protocol.serving import Budget

GOODBYE_S = 0.5  # time for a last message to leave
BLOB_REQUESTS_MAX = 4 * BLOB_INFLIGHT_MAX  # requests of one peer that wait; more break the protocol


class SlowPeer(Exception):
    """The peer does not read what it is sent."""


@dataclass(eq=False, slots=True)
class Link:
    """One connection. ``dialed``: by us."""

    conn: Conn
    peer: NodeId
    dialed: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    gone: trio.Event = field(default_factory=trio.Event)
    latency_ms: float | None = None
    ping: tuple[int, float] | None = None  # number and time of the unanswered ping
    ended: str = ""  # reason code, once we end it
    blob_budget: Budget = field(
        default_factory=lambda: Budget(BLOB_SERVE_BYTES_PER_S, BLOB_SERVE_BYTES_PER_S, BLOB_SERVE_BYTES_PER_S)
    )
    blob_requests: deque[BlobWant] = field(default_factory=deque)
    blob_news: trio.Event = field(default_factory=trio.Event)
    _queue: deque[tuple[bytes, int]] = field(default_factory=deque)
    _queued_bytes: int = 0
    _bulk: bytes | None = None
    _wake: trio.Event = field(default_factory=trio.Event)
    _bulk_free: trio.Event = field(default_factory=trio.Event)

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued_bytes

    def push(self, message: Message) -> None:
        """Queue a message; never waits. A peer over ``PEER_QUEUE_BYTES_MAX`` is dropped."""
        if self.ended:
            return
        payload = messages.encode(message)
        self._queued_bytes += len(payload)
        if self._queued_bytes > PEER_QUEUE_BYTES_MAX:
            self.end("too-slow")
            return
        counted = sum(map(len, message.raws)) if isinstance(message, Records) and message.answer else 0
        self._queue.append((payload, counted))
        self._wake.set()

    async def push_bulk(self, message: Message) -> None:
        """Queue a blob part; waits until the one before has left."""
        while self._bulk is not None:
            self._bulk_free = trio.Event()
            await self._bulk_free.wait()
        self._bulk = messages.encode(message)
        self._wake.set()

    def end(self, code: str, text: str = "") -> None:
        """Close the connection soon; a peer that reads is told why."""
        if self.ended:
            return
        self.ended = code
        if code != "too-slow":
            self._queue.append((messages.encode(Bye(code, text)), 0))
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + GOODBYE_S)
        self._wake.set()

    def ask_blob(self, want: BlobWant) -> bool:
        """Queue a peer's request; False when too many wait."""
        if len(self.blob_requests) >= BLOB_REQUESTS_MAX:
            return False
        self.blob_requests.append(want)
        self.blob_news.set()
        return True

    async def write(self) -> list[int]:
        """Send what is queued now; returns the record bytes of answers that have left.

        Raises:
            SlowPeer: one frame did not leave within ``PEER_IDLE_TIMEOUT_S``. trio.BrokenResourceError: broken.
        """
        if not self._queue and self._bulk is None:
            if self.ended:
                self.scope.cancel()
            self._wake = trio.Event()
            await self._wake.wait()
        left: list[int] = []
        try:
            with trio.fail_after(PEER_IDLE_TIMEOUT_S):
                if self._queue:
                    payload, counted = self._queue.popleft()
                    await self.conn.send_frame(payload)
                    self._queued_bytes -= len(payload)
                    if counted:
                        left.append(counted)
                elif self._bulk is not None:
                    await self.conn.send_frame(self._bulk)
                    self._bulk = None
                    self._bulk_free.set()
        except trio.TooSlowError as error:
            raise SlowPeer from error
        return left
