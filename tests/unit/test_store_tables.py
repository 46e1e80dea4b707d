"""The tables of the views: whole versions, only changed rows written, thrown away when they do not fit."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spore_borg.errors import BorgError, NotFound
from spore_borg.store.tables import Tables, schema_sql, schema_version, search_query


def record(seq: int, title: str = "a title", cid: str | None = None) -> dict[str, Any]:
    return {
        "seq": seq, "cid": cid or f"bcid{seq}", "kind": "experiment", "author": "me", "aseq": seq, "epoch": 1,
        "title": title, "size_bytes": 100,
    }  # fmt: skip


def experiment(seq: int, **changes: Any) -> dict[str, Any]:
    row = {
        "seq": seq, "cid": f"bcid{seq}", "task": "t", "class": "c", "author": "me", "epoch": 1, "depth": 0,
        "operator": "deck", "why": "wider is better", "recipe": {"width": 64}, "recipe_digest": "d",
        "changed": [["width", 32, 64]], "seed": "s", "metric": 5, "steps": 1, "flops": 1, "cpu_ms": 1,
        "params_count": 1, "fingerprint": "f", "curve": [1, 2], "outcome": "kept", "verdict": "unverified",
        "stage": "received", "reason": "new", "settled": False, "frontier": 0, "frontier_why": "",
    }  # fmt: skip
    return {**row, **changes}


def test_a_view_is_published_and_read(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    with Tables(path) as tables:
        assert tables.rebuilt
        assert tables.version == 0
        rows = {"record": [record(1), record(2)], "experiment": [experiment(2)], "meta": [
            {"key": "mesh", "value": "m"}, {"key": "version", "value": "77"}]}  # fmt: skip
        assert tables.publish(rows) == 1
        assert tables.publish(rows) == 1  # nothing changed
        reader = Tables.open_readonly(path)
        row = reader.execute("SELECT * FROM experiment").fetchone()
        assert (row["recipe"], row["changed"], row["settled"]) == ('{"width":64}', '[["width",32,64]]', 0)
        assert row["base"] is None
        assert dict(reader.execute("SELECT * FROM meta").fetchall()) == {"mesh": "m", "version": "1"}
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM record")
        assert tables.publish({"experiment": []}) == 2
        assert reader.execute("SELECT count(*) FROM experiment").fetchone()[0] == 0
        assert reader.execute("SELECT count(*) FROM record").fetchone()[0] == 2
        assert reader.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()[0] == "2"
        reader.close()


def test_only_changed_rows_are_written(tmp_path: Path) -> None:
    with Tables(tmp_path / "views.sqlite") as tables:
        tables.publish({"record": [record(seq) for seq in range(1, 101)]})
        before = tables._db.total_changes
        rows = [record(seq) for seq in range(2, 102)]
        rows[10] = record(12, title="another")
        tables.publish({"record": rows})
        # 1 and 12 deleted, 12 and 101 inserted, version replaced
        assert tables._db.total_changes - before == 5


def test_unique_values_may_change_places(tmp_path: Path) -> None:
    with Tables(tmp_path / "views.sqlite") as tables:
        tables.publish({"record": [record(1, cid="a"), record(2, cid="b"), record(3, cid="c")]})
        tables.publish({"record": [record(1, cid="b"), record(2, cid="c"), record(3, cid="a")]})
        assert [row[0] for row in tables._db.execute("SELECT cid FROM record ORDER BY seq")] == [
            "b",
            "c",
            "a",
        ]


def test_any_way_to_a_view_gives_the_same_tables(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)

    def view(size: int) -> dict[str, list[dict[str, Any]]]:
        numbers = rng.sample(range(1, 40), size)
        titles = [record(n, title=rng.choice(["x", "y"]), cid=f"c{(n * 7) % 40}") for n in numbers]
        runs = [experiment(n, cid=f"c{(n * 7) % 40}", metric=rng.choice([None, 1, 2])) for n in numbers[::2]]
        return {"record": titles, "experiment": runs}

    long_way, reopened = Tables(tmp_path / "a"), tmp_path / "a"
    for step in range(30):
        last = view(rng.randrange(30))
        long_way.publish(last)
        if step % 7 == 0:
            long_way.close()
            long_way = Tables(reopened)
            assert not long_way.rebuilt
    with Tables(tmp_path / "b") as straight:
        straight.publish(last)
        for query in (
            "SELECT * FROM record ORDER BY seq",
            "SELECT * FROM experiment ORDER BY seq",
            "SELECT rowid, * FROM search ORDER BY rowid",
        ):
            assert long_way._db.execute(query).fetchall() == straight._db.execute(query).fetchall()
        long_way._db.execute("INSERT INTO search(search) VALUES ('integrity-check')")
    long_way.close()


def test_search_follows_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"

    def found(text: str) -> list[int]:
        rows = tables._db.execute("SELECT rowid FROM search WHERE search MATCH ?", (search_query(text),))
        return sorted(row[0] for row in rows)

    with Tables(path) as tables:
        tables.publish(
            {"record": [record(1), record(2, "muon")], "experiment": [experiment(1), experiment(2)]}
        )
        assert found("wider") == [1, 2]
        assert found("title") == [1]
        assert found("wider muo") == [2]
        tables.publish({"record": [record(1, "adam"), record(2, "muon")]})
        assert found("adam") == [1]
        assert found("title") == []
        tables.publish({"experiment": [experiment(2, why="no idea")]})
        assert found("idea") == [2]
        assert found("wider") == []
        assert found("nothing-of-it") == []


@pytest.mark.parametrize("text", ['"', "a AND", "NEAR(", "col:x", "-", "*", "'; DROP", "a\0b", "^", "ü é"])
def test_no_text_is_a_syntax_error_of_the_search(tmp_path: Path, text: str) -> None:
    with Tables(tmp_path / "v") as tables:
        tables._db.execute("SELECT * FROM search WHERE search MATCH ?", (search_query(text),)).fetchall()
    assert search_query("  ") == ""


def test_live_is_separate_from_the_version(tmp_path: Path) -> None:
    with Tables(tmp_path / "v") as tables:
        tables.set_live("run", {"step": 3, "loss": 1.5})
        tables.set_live("peers", [])
        tables.set_live("peers", None)
        assert tables._db.execute("SELECT * FROM live").fetchall() == [("run", '{"loss":1.5,"step":3}')]
        assert tables.version == 0
        with pytest.raises(ValueError, match="no table live"):
            tables.publish({"live": []})


def test_a_failed_publish_changes_nothing(tmp_path: Path) -> None:
    with Tables(tmp_path / "v") as tables:
        tables.publish({"record": [record(1)]})
        broken = {**record(2), "title": None}
        with pytest.raises(sqlite3.IntegrityError):
            tables.publish({"node": [], "record": [record(1, "other"), broken]})
        assert tables.publish({"record": [record(1)]}) == 1
        assert tables._db.execute("SELECT title FROM record").fetchall() == [("a title",)]
        for rows, text in (
            ({"songs": []}, "no table songs"),
            ({"record": [{**record(1), "colour": 1}]}, "no column colour"),
            ({"record": [record(1), record(1)]}, "two rows"),
            ({"record": [{**record(1), "title": b"bytes"}]}, "does not fit"),
        ):
            with pytest.raises(ValueError, match=text):
                tables.publish(rows)


def test_rows_may_be_given_by_key(tmp_path: Path) -> None:
    with Tables(tmp_path / "v") as tables:
        rows = {("a",): ("a", "1"), ("b",): ("b", "2")}
        assert tables.replace_rows("meta", rows) == 1
        assert tables.replace_rows("meta", rows) == 1
        assert tables.replace_rows("meta", {("b",): ("b", "3")}) == 2
        with pytest.raises(ValueError, match="does not fit its row"):
            tables.replace_rows("meta", {("c",): ("b", "3")})


def test_what_does_not_fit_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    with Tables(path) as tables:
        tables.publish({"record": [record(1)]})
    with Tables(path) as tables:
        assert not tables.rebuilt
        assert tables.publish({"record": [record(1)]}) == 1
        tables._db.execute("PRAGMA user_version = 1")
    with Tables(path) as tables:
        assert tables.rebuilt
        assert tables._db.execute("SELECT count(*) FROM record").fetchone()[0] == 0
    path.write_bytes(b"no database at all" * 500)
    with Tables(path) as tables:
        assert tables.rebuilt
        assert tables.publish({"record": [record(1)]}) == 1
    assert 0 < schema_version() < 1 << 31
    assert "CREATE TABLE" in schema_sql()


def test_reading_needs_tables_and_writing_a_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="borg rebuild"):
        Tables.open_readonly(tmp_path / "views.sqlite")
    with pytest.raises(BorgError, match="cannot be used"):
        Tables(tmp_path / "nowhere" / "views.sqlite")


def test_readers_see_whole_versions(tmp_path: Path) -> None:
    path = tmp_path / "views.sqlite"
    with Tables(path) as tables:
        tables.publish({"record": [record(1)], "meta": [{"key": "records", "value": "1"}]})
        reader = Tables.open_readonly(path)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM record").fetchone()[0] == 1
        tables.publish({"record": [record(1), record(2)], "meta": [{"key": "records", "value": "2"}]})
        assert reader.execute("SELECT value FROM meta WHERE key = 'records'").fetchone()[0] == "1"
        reader.execute("COMMIT")
        assert reader.execute("SELECT value FROM meta WHERE key = 'records'").fetchone()[0] == "2"
        reader.close()
