"""``borg failures`` on a directory with crashed runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import fixtures

from .conftest import Borg


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mesh in which runs have crashed."""
    return fixtures.mesh(tmp_path_factory.mktemp("garden") / "home", 800)


def test_the_list_is_the_page(borg: Borg, garden: Path) -> None:
    from explorer import pages, values
    from explorer.db import Db

    db = Db(garden)
    want = values.to_plain(pages.failures(db, sort="most"))
    db.close()
    value = borg("--home", garden, "failures", "--most", "--json").value
    assert {key: value[key] for key in want} == want  # type: ignore[attr-defined]
    text = borg("--home", garden, "failures").out
    assert "loss is not finite at step #" in text
    assert value["rows"][0]["signature"] in text


def test_one_signature_shows_its_runs(borg: Borg, garden: Path) -> None:
    row = borg("--home", garden, "failures", "finite", "loss", "--json").value["rows"][0]
    value = borg("--home", garden, "failures", row["signature"], "--json").value
    assert len(value["runs"]) == row["runs"]
    text = borg("--home", garden, "failures", row["signature"]).out
    assert value["runs"][0]["run"]["cid"][-10:] in text
    assert "changed by" in text


def test_what_is_not_there_is_said(borg: Borg, garden: Path) -> None:
    assert "No failure has all of these words" in borg("--home", garden, "failures", "zebra").out
    assert borg("--home", garden, "failures", "ffffffffffff").code == 4
    assert borg("--home", garden, "failures", "--after", "x").code == 2
