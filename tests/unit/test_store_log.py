"""The log and its twin without a disk: same answers; a kill loses nothing acknowledged."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spore_borg.errors import IntegrityError, LocalProtocolError, NotAllowed, NotFound
from spore_borg.records.canonical import decode, encode
from spore_borg.records.cid import Cid
from spore_borg.store import log as log_module
from spore_borg.store.api import RecordStore
from spore_borg.store.log import Log
from spore_borg.store.memory import MemoryLog

sys.path.insert(0, str(Path(__file__).parent))
from store_records import KEY, OTHER, chain, follow, genesis

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KILLS = 200


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    if request.param == "memory":
        yield MemoryLog()
    else:
        with Log(tmp_path / "log.sqlite") as log:
            yield log


def test_an_empty_store_answers_everything(store: RecordStore) -> None:
    record = genesis()
    assert store.count() == 0
    assert store.heads() == []
    assert store.max_epoch() == 0
    assert store.last_of(KEY.public) is None
    assert store.get(record.cid) is None
    assert store.raw(record.cid) is None
    assert store.missing([record.cid]) == [record.cid]
    assert list(store.scan()) == []
    assert list(store.keys()) == []


def test_what_is_appended_is_read_back(store: RecordStore) -> None:
    records = chain(20)
    assert all(store.append(records[:5]))
    outcome = store.append([*records[3:], records[-1]])
    assert [item.new for item in outcome] == [False, False] + [True] * 15 + [False]
    assert [item.seq for item in outcome] == [*range(4, 21), 20]
    assert [record.cid for _, record in store.scan()] == [record.cid for record in records]
    assert [seq for seq, _ in store.scan(after_seq=7, limit=3)] == [8, 9, 10]
    assert store.get(records[7].cid) == records[7]
    assert store.raw(records[7].cid) == records[7].raw
    assert store.last_of(KEY.public) == (19, records[-1].cid)
    assert store.last_of(OTHER.public) is None
    assert store.heads() == [records[-1].cid]
    assert store.max_epoch() == records[-1].epoch
    assert store.count() == store.data_version() == 20
    assert list(store.keys()) == sorted((record.epoch, record.cid.digest) for record in records)


def test_heads_are_the_records_nobody_has_seen(store: RecordStore) -> None:
    root = genesis()
    mine = follow(root.cid, (0, root.cid))
    theirs = follow(root.cid, None, key=OTHER)
    join = follow(root.cid, (1, mine.cid), parents=(theirs.cid,))
    store.append([root, mine, theirs])
    assert store.heads() == [theirs.cid, mine.cid]
    assert store.heads(limit=1) == [theirs.cid]
    store.append([join])
    assert store.heads() == [join.cid]  # ``mine`` is its author's previous record, and so seen as well


def test_a_child_stored_before_its_parent_still_covers_it(store: RecordStore) -> None:
    root, child = chain(2)
    store.append([child])
    store.append([root])
    assert store.heads() == [child.cid]


def test_log_and_twin_agree_on_any_order_and_repetition(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    records = chain(30) + chain(30, OTHER)[1:]
    with Log(tmp_path / "log.sqlite") as disk:
        memory = MemoryLog()
        for _ in range(40):
            batch = rng.choices(records, k=rng.randrange(6))
            assert disk.append(batch) == memory.append(batch)
            wanted = rng.sample([record.cid for record in records], 9)
            assert disk.missing(wanted) == memory.missing(wanted)
            assert disk.heads() == memory.heads()
            assert list(disk.keys()) == list(memory.keys())
            assert disk.max_epoch() == memory.max_epoch()
            for key in (KEY, OTHER):
                assert disk.last_of(key.public) == memory.last_of(key.public)
        assert list(disk.scan()) == list(memory.scan())
        after = disk.heads(), list(disk.keys())
    with Log(tmp_path / "log.sqlite") as again:
        assert (again.heads(), list(again.keys())) == after


def test_own_records_never_share_a_number(store: RecordStore) -> None:
    root = genesis()
    store.append([root])
    made = [store.append_own(KEY.public, lambda last: follow(root.cid, last)) for _ in range(5)]
    assert [record.seq for record in made] == [1, 2, 3, 4, 5]
    with pytest.raises(LocalProtocolError, match="does not follow"):
        store.append_own(KEY.public, lambda last: follow(root.cid, (0, root.cid), bio="a second record 1"))
    with pytest.raises(LocalProtocolError):
        store.append_own(OTHER.public, lambda last: follow(root.cid, (5, made[-1].cid)))
    assert store.count() == 6


def test_own_records_of_many_threads_never_share_a_number(tmp_path: Path) -> None:
    root = genesis()
    with Log(tmp_path / "log.sqlite") as log:
        log.append([root])

        def work() -> None:
            for _ in range(10):
                log.append_own(KEY.public, lambda last: follow(root.cid, last))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(record.seq for _, record in log.scan()) == list(range(41))
        assert log.check() == 41


def test_a_failed_append_changes_nothing(tmp_path: Path) -> None:
    records = chain(6)

    class Broken:
        cid, kind, author, seq, epoch, raw, parents = records[5].cid, None, b"", 0, 0, b"", ()

        def past(self) -> tuple[Cid, ...]:
            return ()

    with Log(tmp_path / "log.sqlite") as log:
        log.append(records[:3])
        with pytest.raises(sqlite3.IntegrityError):
            log.append([records[3], Broken()])  # type: ignore[list-item]
        assert log.count() == 3
        assert log.heads() == [records[2].cid]
        assert all(log.append(records[3:]))


def test_a_reader_beside_the_writer_sees_what_was_acknowledged(tmp_path: Path) -> None:
    records = chain(60)
    path = tmp_path / "log.sqlite"
    with Log(path) as writer:
        writer.append(records[:1])
        with Log.open_readonly(path) as reader:
            for start in range(1, 60, 7):
                writer.append(records[start : start + 7])
                expected = min(60, start + 7)
                assert reader.count() == reader.data_version() == expected
                assert reader.heads() == writer.heads() == [records[expected - 1].cid]
                assert reader.get(records[expected - 1].cid) == records[expected - 1]
            with pytest.raises(LocalProtocolError, match="reading only"):
                reader.append(records)


def test_a_second_writer_does_not_confuse_the_first(tmp_path: Path) -> None:
    records = chain(9)
    with Log(tmp_path / "log.sqlite") as one, Log(tmp_path / "log.sqlite") as two:
        for number, record in enumerate(records, 1):
            assert (one if number % 2 else two).append([record])[0].seq == number
            assert one.heads() == two.heads() == [record.cid]


def test_reading_needs_a_log(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="borg run"):
        Log.open_readonly(tmp_path / "log.sqlite")


@pytest.mark.parametrize("readonly", [False, True])
def test_foreign_and_damaged_files_are_refused_with_advice(tmp_path: Path, readonly: bool) -> None:
    path = tmp_path / "log.sqlite"
    opener = Log.open_readonly if readonly else Log
    path.write_bytes(b"this is no database " * 300)
    with pytest.raises(IntegrityError, match="move the file away"):
        opener(path)
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE songs (title TEXT)")
    foreign.close()
    with pytest.raises(IntegrityError, match="not a log of spore-borg"):
        opener(path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    Log(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(IntegrityError, match="schema 99"):
        Log(path)


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    records = chain(3)
    with Log(path) as log:
        log.append(records)
    db = sqlite3.connect(path)
    db.execute("UPDATE record SET raw = ? WHERE cid = ?", (records[0].raw, bytes(records[1].cid)))
    db.commit()
    db.close()
    with Log(path) as log:
        assert log.get(records[2].cid) == records[2]
        with pytest.raises(IntegrityError, match="have changed"):
            log.get(records[1].cid)
        with pytest.raises(IntegrityError, match="have changed"):
            log.check()


def test_records_of_another_form_are_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    record = chain(1)[0]
    other = encode({**decode(record.raw), "v": 2})
    cid = Cid.of(other)
    with Log(path) as log:
        log.append([record])
    db = sqlite3.connect(path)
    db.execute("UPDATE record SET raw = ?, cid = ?", (other, bytes(cid)))
    db.commit()
    db.close()
    with Log(path) as log, pytest.raises(NotAllowed, match=r"another release.*bad-version.*--home"):
        log.get(cid)


def test_torn_pages_are_found(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with Log(path) as log:
        log.append(chain(60))
    body = bytearray(path.read_bytes())
    for page in range(2, len(body) // 4096):
        body[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(body)
    with pytest.raises(IntegrityError, match="move the file away"), Log(path) as log:
        log.check()


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "CACHE_RECORDS_MAX", 5)
    records = chain(12)
    with Log(tmp_path / "log.sqlite") as log:
        log.append(records)
        assert [log.get(record.cid) for record in records] == records
        assert len(log._cache) == 5


def test_facts_about_the_log_stay(store: RecordStore) -> None:
    assert isinstance(store, Log | MemoryLog)
    assert store.meta("mesh") is None
    store.set_meta("mesh", "a")
    store.set_meta("mesh", "b")
    assert store.meta("mesh") == "b"


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """A child signs, stores, then publishes (prints). Killed at random moments, again and again."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    path = tmp_path / "log.sqlite"
    published: dict[int, str] = {}
    server = subprocess.Popen(
        [sys.executable, str(HERE / "store_victim.py"), "log", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, bufsize=1,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        for _ in range(KILLS):
            server.stdin.write(f"{rng.uniform(0.0, 0.03):.6f}\n")
            for line in server.stdout:
                if line == "killed\n":
                    break
                if not line.endswith(";\n"):
                    continue  # torn by the kill: never acknowledged
                for item in line[:-2].split(","):
                    number, cid = item.split("=")
                    assert published.setdefault(int(number), cid) == cid, (
                        "two records with one number went out"
                    )
    finally:
        server.stdin.close()
        server.wait(timeout=10)
        server.stdout.close()
    print("acknowledged", len(published))
    with Log(path) as log:
        stored = {record.seq: str(record.cid) for _, record in log.scan()}
        last = log.last_of(KEY.public)
        assert last is not None
        assert last[0] >= max(published)
        assert published.items() <= stored.items()
        assert sorted(stored) == list(range(len(stored)))  # the chain has no gap
        assert log.check() == len(stored)
        following = log.append_own(KEY.public, lambda last: follow(log_mesh(log), last))
        assert following.seq not in published
    assert len(published) > KILLS


def log_mesh(log: Log) -> Cid:
    return next(log.scan(limit=1))[1].cid
