"""Fetching blobs: first the manifest, then the chunks, from several peers, each checked by its hash. No I/O.

Spec: ``spec/33-blobs.md``.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from spore_borg.errors import RemoteProtocolError
from spore_borg.limits import BLOB_INFLIGHT_MAX, BLOB_SIZE_BYTES_MAX, CHUNK_SIZE_BYTES
from spore_borg.protocol.events import NodeId
from spore_borg.protocol.messages import CHUNKS_MAX, MANIFEST, BlobPart, BlobWant
from spore_borg.records.canonical import decode
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.reasons import Refused

REQUEST_TIMEOUT_S = 15.0  # an unanswered request goes to another peer
LACK_RETRY_S = 2.0  # a peer that had no such part is asked again after this long
MANIFEST_ASKED_MAX = 2  # peers asked for one manifest at a time


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this request to a peer."""

    peer: NodeId
    want: BlobWant


@dataclass(frozen=True, slots=True)
class Open:
    """The manifest is right: open the download and say ``opened`` with the chunks that lack."""

    cid: Cid
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Keep a chunk (checked); say ``written`` afterwards. ``whole``: it is the entire small blob."""

    cid: Cid
    index: int
    data: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """Every chunk is on the disk."""

    cid: Cid


FetchEffect = Ask | Open | Write | Finish


def manifest_digests(cid: Cid, raw: bytes) -> list[bytes]:
    """The chunk digests of a manifest, once its bytes are those that ``cid`` names.

    Raises:
        RemoteProtocolError: other bytes, not a manifest, or a blob over the limit.
    """
    if Cid.of(raw) != cid:
        raise RemoteProtocolError(detail=f"the manifest is not that of blob {cid}")
    try:
        value = decode(raw)
    except Refused as error:
        raise RemoteProtocolError(detail="a manifest is not canonical") from error
    if type(value) is not dict or set(value) != {"size", "chunk", "chunks"}:
        raise RemoteProtocolError(detail="a manifest has size, chunk and chunks")
    size, chunk, chunks = value["size"], value["chunk"], value["chunks"]
    if (
        type(size) is not int
        or not CHUNK_SIZE_BYTES < size <= BLOB_SIZE_BYTES_MAX
        or chunk != CHUNK_SIZE_BYTES
    ):
        raise RemoteProtocolError(detail="a manifest of a forbidden size")
    count = -(-size // CHUNK_SIZE_BYTES)
    if type(chunks) is not list or len(chunks) != count or count > CHUNKS_MAX:
        raise RemoteProtocolError(detail="a manifest with a wrong number of chunks")
    if not all(type(digest) is bytes and len(digest) == 32 for digest in chunks):
        raise RemoteProtocolError(detail="a manifest with a wrong digest")
    return chunks


@dataclass(slots=True)
class _Blob:
    """One download."""

    cid: Cid
    hints: tuple[NodeId, ...]
    progress_s: float
    digests: list[bytes] | None = None  # None: the manifest is to come
    todo: deque[int] = field(default_factory=deque)
    unwritten: set[int] = field(default_factory=set)
    opening: bool = False
    asked: dict[int, set[NodeId]] = field(default_factory=dict)
    lacks: dict[NodeId, float] = field(default_factory=dict)  # peer → not before


class Fetcher:
    """All downloads of one node."""

    def __init__(self) -> None:
        self._blobs: dict[Cid, _Blob] = {}
        self._peers: dict[NodeId, dict[tuple[Cid, int], float]] = {}  # requests under way → deadline

    def __contains__(self, cid: Cid) -> bool:
        return cid in self._blobs

    def start(
        self, cid: Cid, hints: Iterable[NodeId], now_s: float, *, opening: bool = False
    ) -> list[FetchEffect]:
        """Begin a download. ``hints``: peers asked first; ``opening``: ``opened`` will follow by itself."""
        blob = _Blob(cid, tuple(hints), now_s, opening=opening)
        if cid.codec == RAW:
            blob.digests = [cid.digest]
            blob.todo.append(0)
            blob.unwritten.add(0)
        self._blobs[cid] = blob
        return self.pump(now_s)

    def stop(self, cid: Cid) -> None:
        """Give a download up; answers still under way are ignored."""
        self._blobs.pop(cid, None)

    def progress_s(self, cid: Cid) -> float:
        """When the download last got a part."""
        return self._blobs[cid].progress_s

    def opened(self, cid: Cid, manifest: bytes, missing: Iterable[int], now_s: float) -> list[FetchEffect]:
        """The download is open on the disk; these chunks lack."""
        blob = self._blobs.get(cid)
        if blob is None:
            return []
        blob.opening = False
        blob.digests = manifest_digests(cid, manifest)
        blob.todo = deque(missing)
        blob.unwritten = set(blob.todo)
        if not blob.unwritten:
            del self._blobs[cid]
            return [Finish(cid)]
        return self.pump(now_s)

    def written(self, cid: Cid, index: int) -> list[FetchEffect]:
        """A chunk is on the disk."""
        blob = self._blobs.get(cid)
        if blob is None:
            return []
        blob.unwritten.discard(index)
        if blob.unwritten:
            return []
        del self._blobs[cid]
        return [Finish(cid)]

    def peer_up(self, peer: NodeId, now_s: float) -> list[FetchEffect]:
        """A peer can be asked."""
        self._peers[peer] = {}
        return self.pump(now_s)

    def peer_down(self, peer: NodeId, now_s: float) -> list[FetchEffect]:
        """A peer is gone; its requests go to others."""
        for cid, index in self._peers.pop(peer, {}):
            self._unasked(cid, index, peer)
        for blob in self._blobs.values():
            blob.lacks.pop(peer, None)
        return self.pump(now_s)

    def part(self, peer: NodeId, message: BlobPart, now_s: float) -> list[FetchEffect]:
        """A peer's answer.

        Raises:
            RemoteProtocolError: bytes that do not have the hash asked for.
        """
        asked = self._peers.get(peer, {}).pop((message.cid, message.index), None)
        blob = self._blobs.get(message.cid)
        if asked is None or blob is None:
            return []  # given up meanwhile, or never asked for: nothing is kept
        self._unasked(message.cid, message.index, peer, again=message.data is None)
        if message.data is None:
            blob.lacks[peer] = now_s + LACK_RETRY_S
            return self.pump(now_s)
        effects: list[FetchEffect] = []
        if message.index == MANIFEST:
            if blob.digests is None and not blob.opening:
                manifest_digests(blob.cid, message.data)
                blob.opening = True
                blob.progress_s = now_s
                effects.append(Open(blob.cid, message.data))
        elif blob.digests is not None and message.index in blob.unwritten:
            if hashlib.sha256(message.data).digest() != blob.digests[message.index]:
                blob.todo.append(message.index)
                raise RemoteProtocolError(detail=f"wrong bytes for chunk {message.index} of blob {blob.cid}")
            blob.progress_s = now_s
            effects.append(Write(blob.cid, message.index, message.data, blob.cid.codec == RAW))
        return [*effects, *self.pump(now_s)]

    def tick(self, now_s: float) -> list[FetchEffect]:
        """Time has passed: give up late requests."""
        for peer, requests in self._peers.items():
            for (cid, index), deadline_s in list(requests.items()):
                if deadline_s <= now_s:
                    del requests[(cid, index)]
                    self._unasked(cid, index, peer)
                    if cid in self._blobs:
                        self._blobs[cid].lacks[peer] = now_s + LACK_RETRY_S
        return self.pump(now_s)

    def pump(self, now_s: float) -> list[FetchEffect]:
        """Every request that may be sent now."""
        effects: list[FetchEffect] = []
        for blob in self._blobs.values():
            order = sorted(
                self._peers, key=lambda peer: (peer not in blob.hints, len(self._peers[peer]), peer)
            )
            if blob.digests is None:
                for peer in order if not blob.opening else ():
                    asked = blob.asked.setdefault(MANIFEST, set())
                    if len(asked) < MANIFEST_ASKED_MAX and peer not in asked:
                        effects += self._ask(blob, peer, MANIFEST, now_s)
                continue
            moved = True
            while blob.todo and moved:
                moved = False
                for peer in order:
                    if not blob.todo:
                        break
                    ask = self._ask(blob, peer, blob.todo[0], now_s)
                    if ask:
                        blob.todo.popleft()
                        effects += ask
                        moved = True
        return effects

    def _ask(self, blob: _Blob, peer: NodeId, index: int, now_s: float) -> list[Ask]:
        requests = self._peers[peer]
        if len(requests) >= BLOB_INFLIGHT_MAX or blob.lacks.get(peer, 0.0) > now_s:
            return []
        if (blob.cid, index) in requests:
            return []
        requests[(blob.cid, index)] = now_s + REQUEST_TIMEOUT_S
        blob.asked.setdefault(index, set()).add(peer)
        return [Ask(peer, BlobWant(blob.cid, index))]

    def _unasked(self, cid: Cid, index: int, peer: NodeId, *, again: bool = True) -> None:
        """A request has ended; without bytes the chunk is to be asked for again."""
        blob = self._blobs.get(cid)
        if blob is None:
            return
        blob.asked.get(index, set()).discard(peer)
        if again and index != MANIFEST and index in blob.unwritten:
            blob.todo.append(index)
