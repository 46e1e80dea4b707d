"""Blobs: named by content, checked chunk by chunk; a kill loses no acknowledged chunk."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spore_borg.errors import BorgError, IntegrityError, NotFound, RemoteProtocolError
from spore_borg.limits import CHUNK_SIZE_BYTES
from spore_borg.records.canonical import encode
from spore_borg.records.cid import DAG_CBOR, RAW, Cid
from spore_borg.store import blobs as blobs_module
from spore_borg.store.blobs import SIZE_BYTES_MAX, Blobs, Manifest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
KILLS = 60
CHUNK = CHUNK_SIZE_BYTES
LARGE = random.Random(7).randbytes(3 * CHUNK + 7)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_bytes_and_files_get_the_same_name_and_come_back(blobs: Blobs, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    cid = blobs.put_bytes(data)
    assert cid.codec == (RAW if size <= CHUNK else DAG_CBOR)
    source = tmp_path / "source"
    source.write_bytes(data)
    other = Blobs(tmp_path / "other")
    assert blobs.put_file(source) == other.put_file(source) == cid
    assert source.exists()
    assert blobs.manifest_of(data) == (cid, blobs.manifest(cid)) == (cid, other.manifest(cid))
    for store in (blobs, other, Blobs(tmp_path / "other")):
        assert store.read(cid) == data
        assert store.size(cid) == size
        store.verify(cid)
    assert list(other.list()) == [(cid, size)]
    if size <= CHUNK:
        assert cid == Cid.of(data, RAW)


def test_a_moved_file_is_not_copied(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(LARGE)
    inode = source.stat().st_ino
    cid = blobs.put_file(source, move=True)
    assert not source.exists()
    assert blobs.path(cid).stat().st_ino == inode
    source.write_bytes(LARGE)
    assert blobs.put_file(source, move=True) == cid
    assert not source.exists()


def test_a_file_with_a_second_name_is_copied_when_moved(blobs: Blobs, tmp_path: Path) -> None:
    source, second = tmp_path / "a", tmp_path / "b"
    source.write_bytes(LARGE)
    second.hardlink_to(source)
    cid = blobs.put_file(source, move=True)
    assert not source.exists()
    second.write_bytes(b"changed through the other name")
    blobs.verify(cid)


def test_links_and_directories_are_refused(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "blobs")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(BorgError, match="not a plain file"):
            blobs.put_file(path)


def test_what_is_not_here_is_not_found(blobs: Blobs) -> None:
    cid = Cid.of(b"nowhere", RAW)
    assert not blobs.has(cid)
    assert not blobs.remove(cid)
    for ask in (blobs.path, blobs.size, blobs.manifest, blobs.verify, lambda cid: blobs.read_chunk(cid, 0)):
        with pytest.raises(NotFound):
            ask(cid)


def test_only_a_cid_names_a_blob(blobs: Blobs) -> None:
    for name in ("../../etc/passwd", "b", b"\x01"):
        with pytest.raises(TypeError):
            blobs.has(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"small", LARGE])
def test_changed_bytes_are_never_handed_out(blobs: Blobs, data: bytes) -> None:
    cid = blobs.put_bytes(data)
    path = blobs.path(cid)
    last = (len(data) - 1) // CHUNK
    path.write_bytes(data[:-1] + b"!")
    assert last == 0 or blobs.read_chunk(cid, 0) == data[:CHUNK]
    for ask in (lambda: blobs.read_chunk(cid, last), lambda: blobs.verify(cid), lambda: blobs.read(cid)):
        with pytest.raises(IntegrityError, match="has changed"):
            ask()
    path.write_bytes(data + b"longer")
    with pytest.raises(IntegrityError):
        blobs.verify(cid)
    with pytest.raises(IndexError):
        blobs.read_chunk(cid, last + 1)
    assert blobs.remove(cid)
    assert blobs.put_bytes(data) == cid
    blobs.verify(cid)


def test_a_changed_manifest_is_found(blobs: Blobs, tmp_path: Path) -> None:
    cid = blobs.put_bytes(LARGE)
    file = tmp_path / "blobs" / f"{cid}.manifest"
    for content in (b"nonsense", blobs.manifest_of(LARGE + b"!")[1]):
        file.write_bytes(content)
        with pytest.raises(IntegrityError, match="manifest"):
            Blobs(tmp_path / "blobs").read_chunk(cid, 0)


def test_a_download_is_checked_and_resumed(blobs: Blobs, tmp_path: Path) -> None:
    cid, manifest = blobs.manifest_of(LARGE)
    parts = [LARGE[at : at + CHUNK] for at in range(0, len(LARGE), CHUNK)]
    partial = blobs.begin(cid, manifest)
    assert partial.missing() == [0, 1, 2, 3]
    assert partial.write(2, parts[2])
    assert not partial.write(2, parts[2])
    for index, data in ((0, parts[1]), (0, parts[0][:-1]), (9, b""), (-1, parts[3])):
        with pytest.raises(RemoteProtocolError, match="wrong bytes"):
            partial.write(index, data)
    with pytest.raises(ValueError, match="lacks 3 chunks"):
        partial.finish()
    again = Blobs(tmp_path / "blobs")
    assert again.partials() == [cid]
    assert again.partial_manifest(cid) == manifest
    resumed = again.begin(cid, manifest)
    assert resumed.missing() == [0, 1, 3]
    for index in resumed.missing():
        resumed.write(index, parts[index])
    assert not again.has(cid)
    assert resumed.finish().read_bytes() == LARGE
    assert again.partials() == []
    assert blobs.read(cid) == LARGE
    assert again.begin(cid, manifest).missing() == []
    assert again.begin(cid, manifest).finish() == again.path(cid)


def test_a_damaged_download_is_fetched_again(blobs: Blobs, tmp_path: Path) -> None:
    cid, manifest = blobs.manifest_of(LARGE)
    partial = blobs.begin(cid, manifest)
    for index in range(4):
        partial.write(index, LARGE[index * CHUNK : (index + 1) * CHUNK])
    data = tmp_path / "blobs" / "partial" / str(cid) / "data"
    data.write_bytes(data.read_bytes()[: 2 * CHUNK] + b"?" * 10)
    assert blobs.begin(cid, manifest).missing() == [2, 3]


def bad_manifests() -> list[tuple[str, bytes]]:
    digest = b"\1" * 32
    good = {"size": 5, "chunk": CHUNK, "chunks": [digest]}
    return [
        ("not-cbor", b"\xff"),
        ("fields", encode({"size": 5})),
        ("fields", encode([1])),
        ("size is", encode({**good, "size": -1})),
        ("size is", encode({**good, "size": True})),
        ("size is", encode({**good, "size": SIZE_BYTES_MAX + 1})),
        ("chunk is", encode({**good, "chunk": 5})),
        ("chunk is", encode({**good, "chunks": digest})),
        ("do not make", encode({**good, "chunks": [digest, digest]})),
        ("32 bytes", encode({**good, "chunks": [b"\1" * 31]})),
        ("a manifest of", b"\0" * (blobs_module.MANIFEST_SIZE_BYTES_MAX + 1)),
        ("not that of", encode(good)),
        ("not that of", encode({**good, "size": CHUNK + 1, "chunks": [digest, digest]})),
    ]


@pytest.mark.parametrize(("reason", "manifest"), bad_manifests())
def test_a_wrong_manifest_is_refused(blobs: Blobs, reason: str, manifest: bytes) -> None:
    for cid in (Cid.of(b"x", RAW), Cid.of(b"x", DAG_CBOR)):
        with pytest.raises(RemoteProtocolError, match=reason):
            blobs.begin(cid, manifest)
    assert blobs.partials() == []


def test_the_largest_manifest_can_be_read() -> None:
    count = SIZE_BYTES_MAX // CHUNK
    manifest = Manifest(SIZE_BYTES_MAX, tuple(os.urandom(32) for _ in range(count)))
    raw = manifest.encode()
    assert len(raw) <= blobs_module.MANIFEST_SIZE_BYTES_MAX
    assert Manifest.parse(raw) == manifest


def test_a_blob_over_the_limit_is_refused(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "SIZE_BYTES_MAX", CHUNK)
    (tmp_path / "big").write_bytes(b"x" * (CHUNK + 1))
    with pytest.raises(BorgError, match="at most"):
        blobs.put_bytes(b"x" * (CHUNK + 1))
    with pytest.raises(BorgError, match="at most"):
        blobs.put_file(tmp_path / "big")
    assert blobs.put_bytes(b"x" * CHUNK)


def test_what_is_counted_may_go_meanwhile(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    walk, gone = os.walk, blobs.put_bytes(b"removed while it is counted")
    kept = blobs.put_bytes(b"kept")

    def listed(*args: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in walk(*args):  # type: ignore[call-overload]
            blobs.remove(gone)
            yield found

    monkeypatch.setattr(blobs_module.os, "walk", listed)
    assert blobs.usage() > 0 and blobs.has(kept) and not blobs.has(gone)


def test_removing_frees_the_space_and_sweeping_what_was_left(blobs: Blobs, tmp_path: Path) -> None:
    empty = blobs.usage()
    cid = blobs.put_bytes(os.urandom(2 * CHUNK))
    half, manifest = blobs.manifest_of(LARGE)
    blobs.begin(half, manifest).write(0, LARGE[:CHUNK])
    assert blobs.usage() >= 3 * CHUNK
    assert blobs.remove(cid)
    assert blobs.remove(half)
    assert not blobs.has(cid)
    assert blobs.partials() == []
    assert blobs.usage() == empty
    (tmp_path / "blobs" / "tmp" / "left").write_bytes(b"x")
    (tmp_path / "blobs" / f"{half}.manifest").write_bytes(manifest)
    kept = blobs.put_bytes(LARGE + b"kept")
    assert blobs.sweep() == 2
    blobs.verify(kept)
    assert [cid for cid, _ in blobs.list()] == [kept]


def test_kill_9_loses_no_acknowledged_chunk(tmp_path: Path) -> None:
    from store_victim import blob_bytes

    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    blobs = Blobs(tmp_path / "blobs")
    chunks: dict[int, set[int]] = {}
    whole: set[int] = set()
    small: set[Cid] = set()
    resumed = 0
    with subprocess.Popen(
        [sys.executable, str(HERE / "store_victim.py"), "blobs", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        for _ in range(KILLS):
            server.stdin.write(f"{rng.uniform(0.0, 0.02):.6f}\n")
            for line in server.stdout:
                if line == "killed\n":
                    break
                number, _, what = line.strip("\n;").partition("=")
                if not line.endswith(";\n"):
                    continue
                if what == "done":
                    whole.add(int(number))
                elif what.startswith("b"):
                    small.add(Cid.parse(what))
                else:
                    index = int(what)
                    assert index not in chunks.setdefault(int(number), set()), (
                        "a stored chunk was fetched again"
                    )
                    chunks[int(number)].add(index)
            for number in set(chunks) - whole:
                cid, manifest = blobs.manifest_of(blob_bytes(number))
                assert not chunks[number] & set(blobs.begin(cid, manifest).missing())
                resumed += 1
        server.stdin.close()
    print("whole", len(whole), "small", len(small), "found half-done", resumed)
    blobs.sweep()
    for number in whole:
        assert blobs.read(blobs.manifest_of(blob_bytes(number))[0]) == blob_bytes(number)
    for cid in small:
        blobs.verify(cid)
    for cid, _ in blobs.list():
        blobs.verify(cid)
    assert resumed > 5
    assert len(whole) > 5
