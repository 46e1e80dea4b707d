"""Commands that read a home directory without a running node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import ANN, BASE, BETTER, BOB, Borg


def test_frontier_says_how_it_was_verified(borg: Borg, home: Path) -> None:
    value = borg("--home", home, "frontier", "--json").value
    (row,) = value["rows"]
    assert row["cid"] == BETTER[0] and row["metric"] == 2_280_000_000 and row["status"] == "confirmed"
    assert value["evidence"] == {BETTER[0]: {"T1": 1, "T2": 1}}
    text = borg("--home", home, "frontier").out
    assert "2.28000  bits/byte" in text and "+0.01000" in text and "confirmed by 1 (T1×1 T2×1)" in text


def test_frontier_can_be_narrowed(borg: Borg, home: Path) -> None:
    assert len(borg("--home", home, "frontier", "--task", "nano", "--json").value["rows"]) == 1
    assert borg("--home", home, "frontier", "--class", "RTX_4090", "--json").value["rows"] == []


def test_json_is_that_of_the_page(borg: Borg, home: Path) -> None:
    from explorer import pages, values
    from explorer.db import Db

    db = Db(home)
    twins = {
        ("frontier",): pages.frontier(db),
        ("log", "-n", "50"): pages.records(db, kind="all"),
        ("queue",): pages.verify(db),
        ("reputation",): pages.reputation(db),
        ("reputation", ANN): pages.node(db, ANN),
        ("show", BETTER[0]): pages.record(db, BETTER[0]),
    }
    for words, page in twins.items():
        twin = json.loads(values.to_json(page))
        assert {**borg("--home", home, *words, "--json").value, **twin} == (
            borg("--home", home, *words, "--json").value
        )
    db.close()


def test_log_pages_by_key(borg: Borg, home: Path) -> None:
    first = borg("--home", home, "log", "-n", "1", "--json").value
    assert [row["cid"] for row in first["rows"]] == [BETTER[0]]
    older = borg("--home", home, "log", "-n", "1", "--before", first["before"], "--json").value
    assert [row["cid"] for row in older["rows"]] == [BASE[0]] and older["before"] is None


def test_log_by_facets(borg: Borg, home: Path) -> None:
    def found(*words: str) -> int:
        return len(borg("--home", home, "log", "--json", *words).value["rows"])

    assert found("--author", "ann") == 2 and found("--author", "bob") == 0
    assert found("--verdict", "confirmed") == 2 and found("--verdict", "refuted") == 0
    assert found("--kind", "experiment") == 2 and found("--kind", "seal") == 0
    assert borg("--home", home, "log", "--verdict", "nonsense", "--json").code == 2


def test_text_of_strangers_cannot_move_the_cursor(borg: Borg, home: Path) -> None:
    assert "\x1b" not in borg("--home", home, "log").out


@pytest.mark.parametrize("name", [BETTER[0], BETTER[0][:30], "…" + BETTER[0][-10:]])
def test_show_finds_a_record_by_part_of_its_id(borg: Borg, home: Path, name: str) -> None:
    value = borg("--home", home, "show", name, "--json").value
    assert value["record"]["cid"] == BETTER[0]
    assert value["signed"]["decoded"]["body"]["why"] == "better"
    assert [row["author"]["name"] for row in value["experiment"]["attestations"]] == [BOB, BOB]
    text = borg("--home", home, "show", name).out
    assert "body.seed  0102" in text and "Its result was confirmed." in text and "8 blocks" in text


def test_show_asks_for_more_of_an_id(borg: Borg, home: Path) -> None:
    result = borg("--home", home, "show", "b", "--json")
    assert result.code == 2 and "not enough" in result.value["error"]["message"]


@pytest.mark.parametrize(("name", "code"), [("bzzzzz", 4), ("b%'_", 2), ("", 2), ("…", 2), ("*", 2)])
def test_show_of_nothing(borg: Borg, home: Path, name: str, code: int) -> None:
    result = borg("--home", home, "show", name, "--json")
    assert result.code == code == result.value["error"]["code"]


def test_diff_against_base_and_between_two(borg: Borg, home: Path) -> None:
    value = borg("--home", home, "diff", BETTER[0], "--json").value
    assert (
        value["changed"] == [["lr", 4000, 6000]]
        and value["before"] == BASE[0]
        and value["gain"] == 10_000_000
    )
    back = borg("--home", home, "diff", BETTER[0], BASE[0], "--json").value
    assert back["changed"] == [["lr", 6000, 4000]] and back["gain"] == -10_000_000
    assert "no base" in borg("--home", home, "diff", BASE[0]).out


def test_queue_says_for_whom(borg: Borg, home: Path) -> None:
    (row,) = borg("--home", home, "queue", "--json").value["waiting"]
    assert row["waiting_for"] == [BOB] and row["parts"] == {"age": 5}
    assert "Waits for bob." in borg("--home", home, "queue").out


def test_reputation_and_ledger(borg: Borg, home: Path) -> None:
    leaders = borg("--home", home, "reputation", "--json").value["leaders"]
    assert [row["node"]["name"] for row in leaders] == [ANN, BOB]
    value = borg("--home", home, "reputation", "ann", "--json").value
    assert value["ledger"][0]["sentence"] == "Its result was confirmed."
    assert "+1.000" in borg("--home", home, "reputation", ANN).out


def test_status_works_without_a_node(borg: Borg, home: Path) -> None:
    value = borg("--home", home, "status", "--json").value
    assert (
        value["running"] is None and value["frame"]["waiting"] == 1 and value["frame"]["digest"] == "ab" * 32
    )
    assert "running  no" in borg("--home", home, "status").out


def test_reading_leaves_the_directory_alone(borg: Borg, home: Path) -> None:
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    for name in ("frontier", "log", "queue", "reputation", "status"):
        assert borg("--home", home, name).code == 0
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_damaged_views_are_told_as_such(borg: Borg, home: Path) -> None:
    (home / "views.sqlite").write_bytes(b"no database" * 100)
    result = borg("--home", home, "log", "--json")
    assert result.code == 6 and result.value["error"]["kind"] == "IntegrityError"


def test_views_of_another_version_are_told_as_such(borg: Borg, home: Path) -> None:
    (home / "views.sqlite").unlink()
    (home / "views.sqlite").touch()
    result = borg("--home", home, "log")
    assert result.code == 6 and "borg rebuild" in result.err


def test_a_record_whose_signed_bytes_are_not_here(borg: Borg, home: Path) -> None:
    (home / "log.sqlite").unlink()
    result = borg("--home", home, "show", BETTER[0])
    assert result.code == 0 and "its signed bytes are not in this directory" in result.out
