"""Blobs: recipes, weights, states and corpora as content-addressed files.

A blob of at most one chunk (256 KiB) is named by the CIDv1 (raw) of its bytes. A larger one is named by the CIDv1
(dag-cbor) of its manifest ``{size, chunk, chunks: [sha256 …]}``, so that every chunk can be checked on its own: when
it arrives from a peer, and again whenever it is read.

Files: ``<cid>`` the bytes, ``<cid>.manifest`` (large blobs only), ``partial/<cid>/`` a download under way, ``tmp/``.
A blob is there exactly when ``<cid>`` is: that name appears by a rename, after everything is on the disk.
Names are made from ``Cid`` values only, so that no text from outside becomes a path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spore_borg.errors import BorgError, IntegrityError, NotFound, RemoteProtocolError
from spore_borg.limits import BLOB_SIZE_BYTES_MAX, CHUNK_SIZE_BYTES, RECORD_ITEMS_MAX
from spore_borg.records.canonical import decode, encode
from spore_borg.records.cid import DAG_CBOR, RAW, Cid
from spore_borg.records.reasons import Refused

# Canonical values have at most RECORD_ITEMS_MAX items; eight are the manifest's own
SIZE_BYTES_MAX = min(BLOB_SIZE_BYTES_MAX, (RECORD_ITEMS_MAX - 8) * CHUNK_SIZE_BYTES)
MANIFEST_SIZE_BYTES_MAX = 64 + 34 * (SIZE_BYTES_MAX // CHUNK_SIZE_BYTES + 1)
MANIFEST_CACHE_MAX = 64  # manifests kept in memory


@dataclass(frozen=True, slots=True)
class Manifest:
    """How a blob is cut: its size and the sha256 (32 bytes) of every chunk; an empty blob has one empty chunk."""

    size_bytes: int
    chunks: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode({"size": self.size_bytes, "chunk": CHUNK_SIZE_BYTES, "chunks": list(self.chunks)})

    @property
    def cid(self) -> Cid:
        """The name of the blob that this manifest describes."""
        if self.size_bytes <= CHUNK_SIZE_BYTES:
            return Cid.from_digest(self.chunks[0], RAW)
        return Cid.of(self.encode(), DAG_CBOR)

    def chunk_size(self, index: int) -> int:
        """Bytes in one chunk; only the last may be short."""
        if not 0 <= index < len(self.chunks):
            raise IndexError(f"chunk {index} of {len(self.chunks)}")
        return min(CHUNK_SIZE_BYTES, self.size_bytes - index * CHUNK_SIZE_BYTES)

    def fits(self, index: int, data: bytes) -> bool:
        """Whether these are the bytes of that chunk."""
        return len(data) == self.chunk_size(index) and hashlib.sha256(data).digest() == self.chunks[index]

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ValueError: not canonical, or not a manifest; the text says what is wrong.
        """
        if len(raw) > MANIFEST_SIZE_BYTES_MAX:
            raise ValueError(f"a manifest of {len(raw)} bytes; at most {MANIFEST_SIZE_BYTES_MAX}")
        try:
            value = decode(raw)
        except Refused as error:
            raise ValueError(str(error)) from error
        if type(value) is not dict or value.keys() != {"size", "chunk", "chunks"}:
            raise ValueError("a manifest has the fields size, chunk and chunks")
        size, chunks = value["size"], value["chunks"]
        if type(size) is not int or not 0 <= size <= SIZE_BYTES_MAX:
            raise ValueError(f"size is a whole number of bytes up to {SIZE_BYTES_MAX}")
        if value["chunk"] != CHUNK_SIZE_BYTES or type(chunks) is not list:
            raise ValueError(f"chunk is {CHUNK_SIZE_BYTES} and chunks is a list")
        if len(chunks) != max(1, -(-size // CHUNK_SIZE_BYTES)):
            raise ValueError(f"{len(chunks)} chunks do not make {size} bytes")
        if any(type(digest) is not bytes or len(digest) != 32 for digest in chunks):
            raise ValueError("each chunk is named by 32 bytes")
        return cls(size, tuple(chunks))


class Blobs:
    """The blobs of one node, in one directory."""

    def __init__(self, directory: Path | str) -> None:
        """Use this directory, creating it if there is none; what a killed process left half-made is removed."""
        self.directory = Path(directory)
        self._partials = self.directory / "partial"
        self._tmp = self.directory / "tmp"
        for path in (self.directory, self._partials, self._tmp):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._manifests: OrderedDict[Cid, Manifest] = OrderedDict()

    # ---- names

    def _file(self, cid: Cid) -> Path:
        if not isinstance(cid, Cid):
            raise TypeError("a blob is named by a Cid")
        return self.directory / str(cid)

    def _manifest_file(self, cid: Cid) -> Path:
        return self.directory / f"{cid}.manifest"

    def path(self, cid: Cid) -> Path:
        """The file of a blob, to read only. For what must be trusted, read chunks or ``verify`` first.

        Raises:
            NotFound: it is not here.
        """
        file = self._file(cid)
        if not file.is_file():
            raise NotFound(
                what="blob", name=str(cid), hint="It is fetched when a peer that has it is connected."
            )
        return file

    def has(self, cid: Cid) -> bool:
        """Whether the whole blob is here."""
        return self._file(cid).is_file()

    def size(self, cid: Cid) -> int:
        """Bytes of a blob. Raises ``NotFound``."""
        return self.path(cid).stat().st_size

    # ---- putting

    @staticmethod
    def manifest_of(data: bytes) -> tuple[Cid, bytes]:
        """The name and the manifest that these bytes would have."""
        cuts = range(0, max(1, len(data)), CHUNK_SIZE_BYTES)
        digests = (hashlib.sha256(data[at : at + CHUNK_SIZE_BYTES]).digest() for at in cuts)
        manifest = Manifest(len(data), tuple(digests))
        return manifest.cid, manifest.encode()

    def put_bytes(self, data: bytes) -> Cid:
        """Store bytes; on the disk when it returns.

        Raises:
            BorgError: larger than the limit.
        """
        _check_size(len(data))
        cid, raw = self.manifest_of(data)
        if not self.has(cid):
            handle, name = tempfile.mkstemp(dir=self._tmp)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._install(Path(name), Manifest.parse(raw))
        return cid

    def put_file(self, path: Path | str, *, move: bool = False) -> Cid:
        """Store a file; on the disk when it returns.

        Args:
            path: a plain file; a link is refused.
            move: take the file itself (a rename where the file system allows it) instead of a copy.
        Raises:
            BorgError: not a plain file, or larger than the limit. OSError: it cannot be read.
        """
        source = Path(path)
        if not stat.S_ISREG(source.lstat().st_mode):
            raise BorgError(detail=f"{source} is not a plain file; give one to store.")
        # O_NOFOLLOW: what was a file a moment ago must not be a link now
        with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            status = os.fstat(file.fileno())
            _check_size(status.st_size)
            if move and status.st_nlink == 1 and status.st_dev == self._tmp.stat().st_dev:
                manifest = _manifest_of_chunks(_chunks(file))
                os.fsync(file.fileno())
                if self.has(manifest.cid):
                    source.unlink()
                else:
                    self._install(source, manifest)
                return manifest.cid
            # The copy is hashed while it is made, so that the name fits the copy even if the source changes
            handle, name = tempfile.mkstemp(dir=self._tmp)
            with os.fdopen(handle, "wb") as copy:
                manifest = _manifest_of_chunks(_copied(_chunks(file), copy))
                copy.flush()
                os.fsync(copy.fileno())
        if self.has(manifest.cid):
            Path(name).unlink()
        else:
            self._install(Path(name), manifest)
        if move:
            source.unlink()
        return manifest.cid

    def _install(self, complete: Path, manifest: Manifest) -> None:
        """Give a complete, flushed file its name; the manifest goes first."""
        cid = manifest.cid
        if cid.codec == DAG_CBOR:
            self._write_durably(self._manifest_file(cid), manifest.encode())
        complete.replace(self._file(cid))
        _sync_directory(self.directory)
        self._remember(cid, manifest)

    def _write_durably(self, path: Path, data: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self._tmp)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        _sync_directory(path.parent)

    # ---- reading

    def manifest(self, cid: Cid) -> bytes:
        """The manifest of a blob that is here, as canonical bytes. Raises ``NotFound``, ``IntegrityError``."""
        return self._manifest(cid).encode()

    def _manifest(self, cid: Cid) -> Manifest:
        known = self._manifests.get(cid)
        if known is not None:
            return known
        size = self.size(cid)
        if cid.codec == RAW:
            manifest = Manifest(size, (cid.digest,))
            if size > CHUNK_SIZE_BYTES:
                raise _damaged(cid, f"it has {size} bytes, more than one chunk")
        else:
            try:
                manifest = Manifest.parse(self._manifest_file(cid).read_bytes())
            except (FileNotFoundError, ValueError) as error:
                raise _damaged(cid, f"its manifest is not readable: {error}") from error
            if manifest.cid != cid:
                raise _damaged(cid, "its manifest has changed")
        self._remember(cid, manifest)
        return manifest

    def _remember(self, cid: Cid, manifest: Manifest) -> None:
        self._manifests[cid] = manifest
        while len(self._manifests) > MANIFEST_CACHE_MAX:
            self._manifests.popitem(last=False)

    def read_chunk(self, cid: Cid, index: int) -> bytes:
        """The bytes of one chunk, checked.

        Raises:
            NotFound: the blob is not here. IndexError: it has no such chunk. IntegrityError: the bytes have changed.
        """
        path = self.path(cid)
        manifest = self._manifest(cid)
        length = manifest.chunk_size(index)
        with path.open("rb") as file:
            file.seek(index * CHUNK_SIZE_BYTES)
            data = file.read(length)
        if not manifest.fits(index, data):
            raise _damaged(cid, f"chunk {index} has changed")
        return data

    def read(self, cid: Cid) -> bytes:
        """All bytes of a blob, checked. Raises as ``read_chunk``."""
        count = len(self._manifest(cid).chunks)
        return b"".join(self.read_chunk(cid, index) for index in range(count))

    def verify(self, cid: Cid) -> None:
        """Check every byte of a blob. Raises ``NotFound``, ``IntegrityError``."""
        manifest = self._manifest(cid)
        if self.size(cid) != manifest.size_bytes:
            raise _damaged(cid, f"it has {self.size(cid)} bytes instead of {manifest.size_bytes}")
        for index in range(len(manifest.chunks)):
            self.read_chunk(cid, index)

    # ---- downloads

    def begin(self, cid: Cid, manifest: bytes) -> Partial:
        """Start a download, or go on with one that was interrupted.

        Args:
            cid: the blob wanted.
            manifest: canonical bytes from a peer.
        Raises:
            RemoteProtocolError: the manifest is not that of this blob, or the blob is over the limit.
        """
        self._file(cid)
        try:
            parsed = Manifest.parse(manifest)
        except ValueError as error:
            raise RemoteProtocolError(detail=f"manifest of blob {cid}: {error}") from error
        if parsed.cid != cid:
            raise RemoteProtocolError(detail=f"the manifest is not that of blob {cid}")
        return Partial(self, cid, parsed)

    def partials(self) -> list[Cid]:
        """Downloads under way, or interrupted."""
        return sorted(cid for cid in map(_cid_or_none, self._partials.iterdir()) if cid is not None)

    def partial_manifest(self, cid: Cid) -> bytes | None:
        """The manifest with which an interrupted download was begun, or None."""
        try:
            return (self._partials / str(cid) / "manifest").read_bytes()
        except FileNotFoundError:
            return None

    # ---- keeping house

    def remove(self, cid: Cid) -> bool:
        """Remove a blob and any download of it. Returns whether there was something to remove."""
        found = self.has(cid) or (self._partials / str(cid)).exists()
        self._file(cid).unlink(missing_ok=True)
        self._manifest_file(cid).unlink(missing_ok=True)
        self._manifests.pop(cid, None)
        self._drop_partial(cid)
        return found

    def _drop_partial(self, cid: Cid) -> None:
        shutil.rmtree(self._partials / str(cid), ignore_errors=True)

    def list(self) -> Iterator[tuple[Cid, int]]:
        """Every whole blob as (cid, bytes), in order of name."""
        for path in sorted(self.directory.iterdir()):
            cid = _cid_or_none(path)
            if cid is not None and path.is_file():
                yield cid, path.stat().st_size

    def usage(self) -> int:
        """Bytes on the disk: whole blobs, manifests and downloads under way, whatever others do here meanwhile."""
        return sum(
            _disk_bytes(Path(root) / name) for root, _, names in os.walk(self.directory) for name in names
        )

    def sweep(self) -> int:
        """Remove what killed processes left: temporary files, manifests without a blob. Returns how many.

        Call it when no other task writes here (at the start of a node).
        """
        stale = list(self._tmp.iterdir())
        stale += [file for file in self.directory.glob("*.manifest") if not file.with_suffix("").exists()]
        for path in stale:
            path.unlink(missing_ok=True)
        for cid in self.partials():
            if self.has(cid):
                self._drop_partial(cid)
        return len(stale)


class Partial:
    """A download. A chunk that ``write`` returned for is on the disk, and survives a kill.

    What is there is found again by hashing it, not by believing a list: so no list can be wrong.
    """

    def __init__(self, blobs: Blobs, cid: Cid, manifest: Manifest) -> None:
        """Open or create the directory of the download; use ``Blobs.begin``."""
        self.cid = cid
        self.manifest = manifest
        self._blobs = blobs
        self._directory = blobs._partials / str(cid)
        self._data = self._directory / "data"
        if blobs.has(cid):
            blobs._drop_partial(cid)
            self._have = set(range(len(manifest.chunks)))
            return
        self._have = set()
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700)
            _sync_directory(self._directory.parent)
        blobs._write_durably(self._directory / "manifest", manifest.encode())
        if self._data.exists():
            self._find_chunks()
        else:
            with self._data.open("wb") as file:
                file.truncate(manifest.size_bytes)
                os.fsync(file.fileno())
            _sync_directory(self._directory)

    def _find_chunks(self) -> None:
        with self._data.open("r+b") as file:
            file.truncate(self.manifest.size_bytes)
            for index in range(len(self.manifest.chunks)):
                if self.manifest.fits(index, file.read(self.manifest.chunk_size(index))):
                    self._have.add(index)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole blob."""
        return self.manifest.size_bytes

    def missing(self) -> list[int]:
        """Indexes of the chunks still to come, ascending."""
        return [index for index in range(len(self.manifest.chunks)) if index not in self._have]

    def write(self, index: int, data: bytes) -> bool:
        """Store one chunk; on the disk when it returns. Returns whether it was new.

        Raises:
            RemoteProtocolError: these are not the bytes of that chunk, or there is no such chunk.
        """
        if not 0 <= index < len(self.manifest.chunks) or not self.manifest.fits(index, data):
            raise RemoteProtocolError(detail=f"wrong bytes for chunk {index} of blob {self.cid}")
        if index in self._have:
            return False
        with self._data.open("r+b") as file:
            file.seek(index * CHUNK_SIZE_BYTES)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._have.add(index)
        return True

    def finish(self) -> Path:
        """Turn a complete download into a blob. Returns its file.

        Raises:
            ValueError: chunks are missing.
        """
        if self.missing():
            raise ValueError(f"blob {self.cid} still lacks {len(self.missing())} chunks")
        if not self._blobs.has(self.cid):
            self._blobs._install(self._data, self.manifest)
        self._blobs._drop_partial(self.cid)
        return self._blobs.path(self.cid)


def _disk_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0  # removed, or moved to its name, since the directory was listed


def _check_size(size_bytes: int) -> None:
    if size_bytes > SIZE_BYTES_MAX:
        raise BorgError(detail=f"A blob has at most {SIZE_BYTES_MAX} bytes, not {size_bytes}: split it.")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    yield file.read(CHUNK_SIZE_BYTES)  # an empty file has one empty chunk
    while chunk := file.read(CHUNK_SIZE_BYTES):
        yield chunk


def _copied(chunks: Iterator[bytes], copy: BinaryIO) -> Iterator[bytes]:
    for chunk in chunks:
        copy.write(chunk)
        yield chunk


def _manifest_of_chunks(chunks: Iterator[bytes]) -> Manifest:
    size, digests = 0, []
    for chunk in chunks:
        size += len(chunk)
        _check_size(size)
        digests.append(hashlib.sha256(chunk).digest())
    return Manifest(size, tuple(digests))


def _cid_or_none(path: Path) -> Cid | None:
    try:
        return Cid.parse(path.name)
    except ValueError:
        return None


def _damaged(cid: Cid, detail: str) -> IntegrityError:
    return IntegrityError(
        what=f"blob {cid}",
        detail=detail,
        hint="Remove it: the node fetches it again from a peer that has it.",
    )


def _sync_directory(path: Path) -> None:
    """Flush a rename: without this a name may be lost with the power, though the bytes are there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
