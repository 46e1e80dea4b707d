"""Wheels and sdists are unpacked as data: nothing in them runs, nothing leaves its directory, sizes are bounded.

Sources: PEP 427 (wheel), PEP 625 (sdist); the attacks are tests in ``tests/learn/test_sources.py``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from spore_borg.learn.errors import SourceError
from spore_borg.learn.sources import files, licences

PIECE_BYTES = 1 << 20
HEADER_BYTES_MAX = 8 << 20  # one header of a tar archive

Take = Callable[[list[str]], list[str]]


def unpack(archive: Path, out_dir: Path, take: Take) -> tuple[list[str], str]:
    """Unpack the members that ``take`` chooses from all names.

    Args:
        archive: a zip (wheel) or a tar (sdist), known by its content.
        out_dir: where files are written; members are never written outside.
        take: gets the names of all regular files, the sdist's top directory left off; returns those to unpack.
    Returns:
        The names unpacked, sorted, and the licence that the archive's metadata states.
    Raises:
        SourceError: a member is unsafe, or the archive is damaged or larger than the limits.
    """
    where = archive.name
    try:
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, out_dir, take)
        return _unpack_tar(archive, out_dir, take)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
    ) as error:
        raise SourceError(f"{where} is damaged or no archive: {error}"[:300]) from error
    except gzip.BadGzipFile as error:
        raise SourceError(f"{where} is damaged: {error}"[:300]) from error


def _unpack_zip(archive: Path, out_dir: Path, take: Take) -> tuple[list[str], str]:
    where = archive.name
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        _check_count(len(infos), where)
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = files.safe_name(info.filename, where)
            if info.is_dir():
                continue
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                continue  # a link or a device is never made, so nothing can be written through one
            if name in members:
                raise SourceError(f"{where} has two members called {name[:80]!r}; do not trust this archive.")
            members[name] = info
        names, strip = _without_top(list(members))
        chosen = take(names)
        _check_room(sum(members[strip + name].file_size for name in chosen), archive, out_dir)
        budget = _Budget(archive)
        for name in chosen:
            info = members[strip + name]
            if info.flag_bits & 1:
                raise SourceError(f"{where} is encrypted ({name}); it cannot be read.")
            with opened.open(info) as source:
                _write(source, out_dir / name, budget)
        licence = licences.UNKNOWN
        for name in _metadata_names(names):
            with opened.open(members[strip + name]) as source:
                licence = licences.of_metadata(source.read(4 << 20).decode("utf-8", "replace"))
                break
    return chosen, licence


def _unpack_tar(archive: Path, out_dir: Path, take: Take) -> tuple[list[str], str]:
    """Two passes: the first lists and checks, the second writes."""
    where = archive.name
    members: dict[str, int] = {}
    with _tar(archive) as opened:
        total = 0
        for count, info in enumerate(opened, 1):
            _check_count(count, where)
            total += max(info.size, 0)
            if total > min(files.UNPACKED_BYTES_MAX, _allowed(archive)):
                # Checked before the data is read past: the bomb is not unpacked to be counted.
                raise SourceError(
                    f"{where} would unpack to more than {total} bytes; it is refused as a bomb."
                )
            name = files.safe_name(info.name, where)
            if not info.isreg() or info.issparse():
                continue  # a link or a device is never made, so nothing can be written through one
            if name in members:
                raise SourceError(f"{where} has two members called {name[:80]!r}; do not trust this archive.")
            members[name] = info.size
    names, strip = _without_top(list(members))
    chosen = take(names)
    _check_room(sum(members[strip + name] for name in chosen), archive, out_dir)
    wanted = {strip + name: name for name in chosen}
    stated = {strip + name for name in _metadata_names(names)[:1]}
    licence = licences.UNKNOWN
    budget = _Budget(archive)
    with _tar(archive) as opened:
        for info in opened:
            name = files.safe_name(info.name, where)
            if info.isreg() and (name in wanted or name in stated):
                source = opened.extractfile(info)
                if source is None:
                    raise SourceError(f"{where} changed while it was read.")
                with source:
                    if name in wanted:
                        _write(source, out_dir / wanted[name], budget)
                    else:
                        licence = licences.of_metadata(source.read(4 << 20).decode("utf-8", "replace"))
    return chosen, licence


class _Metered:
    """A decompressed stream whose single reads are bounded: tarfile reads a header's claimed size at once."""

    def __init__(self, raw: IO[bytes], where: str) -> None:
        self._raw = raw
        self._where = where
        self.seek, self.tell, self.close = raw.seek, raw.tell, raw.close

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > HEADER_BYTES_MAX:
            raise SourceError(f"{self._where} has a header of {size} bytes; it is refused as a bomb.")
        return self._raw.read(size)


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _gzip(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb"))


def _bzip2(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", bz2.open(path, "rb"))


def _xz(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", lzma.open(path, "rb"))


@contextmanager
def _tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as raw:
        magic = raw.read(6)
    opener: Callable[[Path], IO[bytes]] = _plain
    for start, known in ((b"\x1f\x8b", _gzip), (b"BZh", _bzip2), (b"\xfd7zXZ", _xz)):
        if magic.startswith(start):
            opener = known
    with opener(archive) as stream:
        metered = _Metered(stream, archive.name)
        with tarfile.open(fileobj=metered, mode="r:") as opened:  # type: ignore[call-overload]
            yield opened


class _Budget:
    """Bytes that may still come out of one archive."""

    def __init__(self, archive: Path) -> None:
        self.where = archive.name
        self.left = min(files.UNPACKED_BYTES_MAX, _allowed(archive))

    def spend(self, size_bytes: int) -> None:
        self.left -= size_bytes
        if self.left < 0:
            raise SourceError(f"{self.where} unpacks to far more than its size; it is refused as a bomb.")


def _allowed(archive: Path) -> int:
    return files.RATIO_FREE_BYTES + archive.stat().st_size * files.UNPACKED_RATIO_MAX


def _check_count(count: int, where: str) -> None:
    if count > files.MEMBERS_MAX:
        raise SourceError(f"{where} has more than {files.MEMBERS_MAX} members; it is refused.")


def _check_room(size_bytes: int, archive: Path, out_dir: Path) -> None:
    if size_bytes > min(files.UNPACKED_BYTES_MAX, _allowed(archive)):
        raise SourceError(f"{archive.name} would unpack to {size_bytes} bytes; it is refused as a bomb.")
    out_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out_dir).free
    if size_bytes + files.SPARE_DISK_BYTES > free:
        raise SourceError(
            f"{archive.name} unpacks to {size_bytes >> 20} MiB and the disk has {free >> 20} MiB left. "
            "Free some space, or choose another directory with --home."
        )


def _without_top(names: list[str]) -> tuple[list[str], str]:
    """Names without the one top directory of an sdist, and that directory; a wheel has more than one."""
    tops = {name.split("/", 1)[0] for name in names}
    top = tops.pop() + "/" if len(tops) == 1 else ""
    if top and top + "PKG-INFO" in names:
        return [name.removeprefix(top) for name in names], top
    return names, ""


def _metadata_names(names: list[str]) -> list[str]:
    """The archive's own metadata, nearest to the top first."""
    found = [n for n in names if n == "PKG-INFO" or (n.endswith(".dist-info/METADATA") and n.count("/") == 1)]
    return sorted(found, key=len)


def _write(source: IO[bytes], path: Path, budget: _Budget) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o644), "wb") as out:
        while piece := source.read(PIECE_BYTES):
            budget.spend(len(piece))
            out.write(piece)
