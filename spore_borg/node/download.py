"""Blob downloads: carries the effects of ``protocol.fetch`` out on the disk. trio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from spore_borg.errors import BorgError, IntegrityError, NotFound, RemoteProtocolError
from spore_borg.protocol.events import NodeId
from spore_borg.protocol.fetch import Ask, FetchEffect, Fetcher, Finish, Open, Write
from spore_borg.protocol.messages import MANIFEST, BlobPart, BlobWant, Message
from spore_borg.records.cid import RAW, Cid

POLL_S = 0.25


class TooLarge(BorgError):
    """The blob {cid} has {size_bytes} bytes, more than the {most_bytes} that are wanted of it."""


class PartialBlob(Protocol):
    """A download on the disk."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole blob, as its manifest says."""
        ...

    def missing(self) -> list[int]:
        """Indexes of the chunks still to come."""
        ...

    def write(self, index: int, data: bytes) -> bool:
        """Keep a chunk; on the disk when it returns."""
        ...

    def finish(self) -> Path:
        """Turn a complete download into a blob."""
        ...


class BlobStore(Protocol):
    """What the wire needs of ``store.blobs.Blobs``."""

    def has(self, cid: Cid) -> bool:
        """Whether the blob is here."""
        ...

    def path(self, cid: Cid) -> Path:
        """Its file."""
        ...

    def manifest(self, cid: Cid) -> bytes:
        """Its manifest's canonical bytes."""
        ...

    def read_chunk(self, cid: Cid, index: int) -> bytes:
        """One chunk, checked."""
        ...

    def put_bytes(self, data: bytes) -> Cid:
        """Keep a small blob."""
        ...

    def begin(self, cid: Cid, manifest: bytes) -> PartialBlob:
        """Start a download, or go on with one."""
        ...

    def partial_manifest(self, cid: Cid) -> bytes | None:
        """The manifest of an interrupted download."""
        ...


def _check_size(cid: Cid, size_bytes: int, most_bytes: int | None) -> None:
    if most_bytes is not None and size_bytes > most_bytes:
        raise TooLarge(cid=cid, size_bytes=size_bytes, most_bytes=most_bytes)


@dataclass(slots=True)
class _Download:
    waiters: int = 0
    done: trio.Event = field(default_factory=trio.Event)
    error: BorgError | None = None
    size_bytes: int = 0  # as its manifest says, once that is here
    partial: PartialBlob | None = None


class Downloads:
    """All downloads of one node, and the reading of blobs for peers.

    Args:
        blobs: the blob store. send: queues a message for a peer. offence: a peer sent wrong bytes.
    """

    def __init__(
        self,
        blobs: BlobStore,
        send: Callable[[NodeId, Message], None],
        offence: Callable[[NodeId, str], None],
    ) -> None:
        self._blobs = blobs
        self._send = send
        self._offence = offence
        self._fetcher = Fetcher()
        self._active: dict[Cid, _Download] = {}
        self.nursery: trio.Nursery | None = None  # set by the owner while it runs

    # --- fetching -----------------------------------------------------------------------------------------

    async def fetch(
        self, cid: Cid, hints: tuple[NodeId, ...], timeout_s: float, most_bytes: int | None = None
    ) -> Path:
        """See ``Peers.fetch_blob``."""
        if self._blobs.has(cid):
            path = self._blobs.path(cid)
            _check_size(cid, path.stat().st_size, most_bytes)
            return path
        download = self._active.get(cid)
        if download is None:
            download = self._active[cid] = _Download()
            download.waiters += 1
            await self._start(cid, hints, download)
        else:
            download.waiters += 1
        try:
            while not download.done.is_set():
                with trio.move_on_after(POLL_S):
                    await download.done.wait()
                _check_size(cid, download.size_bytes, most_bytes)
                idle = (
                    cid in self._fetcher and self._fetcher.progress_s(cid) + timeout_s < trio.current_time()
                )
                if idle and not download.done.is_set():
                    raise NotFound(
                        what="blob",
                        name=cid,
                        hint=f"No connected peer sent it within {timeout_s:g} s. "
                        "Look at `borg peers`; what has arrived is kept.",
                    )
            if download.error is not None:
                raise download.error
            return self._blobs.path(cid)
        finally:
            download.waiters -= 1
            if download.waiters == 0 and self._active.get(cid) is download:
                del self._active[cid]
                self._fetcher.stop(cid)

    async def _start(self, cid: Cid, hints: tuple[NodeId, ...], download: _Download) -> None:
        try:
            manifest = None if cid.codec == RAW else self._blobs.partial_manifest(cid)
            now_s = trio.current_time()
            self._act(self._fetcher.start(cid, hints, now_s, opening=manifest is not None))
            if manifest is not None:
                await self._carry(Open(cid, manifest))
        except BaseException:
            self._active.pop(cid, None)
            self._fetcher.stop(cid)
            raise

    def _act(self, effects: list[FetchEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Ask):
                self._send(effect.peer, effect.want)
            elif self.nursery is not None:
                self.nursery.start_soon(self._carry, effect)

    async def _carry(self, effect: FetchEffect) -> None:
        """One effect that touches the disk."""
        assert not isinstance(effect, Ask)
        download = self._active.get(effect.cid)
        if download is None:
            return
        try:
            match effect:
                case Open(cid, manifest):
                    partial = await trio.to_thread.run_sync(self._blobs.begin, cid, manifest)
                    download.partial, download.size_bytes = partial, partial.size_bytes
                    missing = partial.missing()
                    self._act(self._fetcher.opened(cid, manifest, missing, trio.current_time()))
                case Write(cid, index, data, whole):
                    if whole:
                        await trio.to_thread.run_sync(self._blobs.put_bytes, data)
                    else:
                        assert download.partial is not None
                        await trio.to_thread.run_sync(download.partial.write, index, data)
                    self._act(self._fetcher.written(cid, index))
                case Finish():
                    if download.partial is not None:
                        await trio.to_thread.run_sync(download.partial.finish)
                    download.done.set()
        except RemoteProtocolError as error:
            download.error = error
            download.done.set()
        except OSError as error:
            download.error = IntegrityError(
                what=f"The download of blob {effect.cid}",
                detail=str(error),
                hint="Free some disk space and retry.",
            )
            download.done.set()

    # --- peers --------------------------------------------------------------------------------------------

    def peer_up(self, peer: NodeId) -> None:
        """A peer can be asked."""
        self._act(self._fetcher.peer_up(peer, trio.current_time()))

    def peer_down(self, peer: NodeId) -> None:
        """A peer is gone."""
        self._act(self._fetcher.peer_down(peer, trio.current_time()))

    def tick(self) -> None:
        """Time has passed."""
        self._act(self._fetcher.tick(trio.current_time()))

    def part(self, peer: NodeId, message: BlobPart) -> None:
        """A peer's answer."""
        try:
            self._act(self._fetcher.part(peer, message, trio.current_time()))
        except RemoteProtocolError as error:
            self._offence(peer, str(error.fields["detail"]))

    def read_part(self, want: BlobWant) -> bytes | None:
        """What a peer asks for, from the disk; None when it is not here (or is damaged)."""
        try:
            if want.index == MANIFEST:
                return self._blobs.manifest(want.cid)
            return self._blobs.read_chunk(want.cid, want.index)
        except (NotFound, IntegrityError, IndexError):
            return None
