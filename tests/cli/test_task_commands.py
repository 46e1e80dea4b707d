"""borg task without a running node: make tasks of one's own text, list them, look at one; what is refused, and why."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from spore_borg.cli import call
from spore_borg.home import Home
from spore_borg.store.blobs import Blobs
from spore_borg.store.log import Log
from tests import own_text

from .conftest import Borg
from .test_frame import MAIN


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_text.write(tmp_path_factory.mktemp("text") / "my tales")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A mesh of one, in which a text became a pico task and a lattice."""
    path = tmp_path_factory.mktemp("home") / "h"
    assert call(["--home", str(path), "init", "--task", "pico"]) == 0
    common = ["--home", str(path), "task", "new", "--text", str(text), "--yes", "--json"]
    assert call([*common, "--name", "tales", "--budget", "pico", "--licence", "public domain"]) == 0
    assert call([*common, "--name", "letters", "--kind", "lattice"]) == 0
    return path


def records(home: Path) -> int:
    with Log.open_readonly(Home(home).log) as log:
        return log.count()


def test_tasks_are_listed_with_data_licence_budget_and_whether_they_can_be_verified(
    borg: Borg, home: Path
) -> None:
    rows = {row["name"]: row for row in borg("--home", home, "task", "list", "--json").value["tasks"]}
    gpt, lattice = rows["tales"], rows["letters"]
    assert (gpt["kind"], gpt["licence"], gpt["unit"]) == ("gpt", "public domain", "bits/byte")
    assert (lattice["kind"], lattice["licence"], lattice["unit"]) == ("lattice", "unstated", "bits/character")
    for row in (gpt, lattice):
        assert row["verifies_here"] and row["data_here"] and not row["acknowledged"] and row["frontier"] == []
        assert row["corpus"] == row["name"]  # a directory's name is its owner's business
    assert (gpt["budget"], gpt["budget_unit"], lattice["budget_unit"]) == (
        30_000_000_000,
        "FLOP",
        "character",
    )
    told = borg("--home", home, "task", "list").out
    assert "30 GFLOP" in told and "4,194,304 characters" in told and "public domain" in told
    assert "my tales" not in told


def test_the_data_hold_the_text_and_nothing_hidden(borg: Borg, home: Path, text: Path) -> None:
    rows = borg("--home", home, "task", "list", "--json").value["tasks"]
    data = {row["kind"]: (home / "blobs" / row["data"]).read_bytes() for row in rows}
    first = (text / "a.txt").read_text()[:80]
    assert first.encode() in data["lattice"] and own_text.SECRET.encode() not in data["lattice"]
    assert b"my tales" not in data["lattice"] + data["gpt"] and b"public domain" in data["gpt"]


def test_one_task_is_shown_by_name_or_by_id(borg: Borg, home: Path) -> None:
    one = borg("--home", home, "task", "show", "tales", "--json").value
    assert one["definition"]["spec"]["licence"] == "public domain"
    assert borg("--home", home, "task", "show", one["cid"][:20], "--json").value == one
    told = borg("--home", home, "task", "show", "letters").out
    assert "verifies here" in told and "waits for acknowledgement" in told and "slice_characters" in told
    missing = borg("--home", home, "task", "show", "tale")
    assert missing.code == 4 and "borg task list" in missing.err


def test_a_task_of_another_version_is_told_as_such(
    borg: Borg, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spore_borg.runner.evaluators.harness_digest", lambda: b"another version")
    rows = borg("--home", home, "task", "list", "--json").value["tasks"]
    assert {row["name"]: row["verifies_here"] for row in rows} == {"tales": False, "letters": True}
    assert "another version" in borg("--home", home, "task", "show", "tales").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--name", "nano"), "is the name of a task that ships"),
        (("--name", "tales", "--kind", "lattice", "--budget", "pico"), "leave --budget out"),
        (("--name", "x", "--licence", "l" * 300), "at most 200"),
        (("--name", "x"), "Give --yes if the text may go to every peer"),
    ],
)
def test_a_refusal_says_what_to_do_and_publishes_nothing(
    borg: Borg,
    home: Path,
    text: Path,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = records(home)
    found = borg("--home", home, "task", "new", "--text", text, *arguments)
    assert found.code == 2 and words in found.err and records(home) == before


def test_a_name_is_taken_once(borg: Borg, home: Path, text: Path) -> None:
    before, blobs = records(home), sorted(map(str, Blobs(home / "blobs").list()))
    found = borg(
        "--home", home, "task", "new", "--text", text, "--name", "letters", "--kind", "lattice", "--yes"
    )
    assert found.code == 2 and "has a task 'letters' already" in found.err
    assert records(home) == before and sorted(map(str, Blobs(home / "blobs").list())) == blobs
    assert not list((home / "work").glob("task-*"))


def test_a_text_that_is_too_small_for_its_budget_names_the_budget_that_fits(
    borg: Borg, home: Path, text: Path, tmp_path: Path
) -> None:
    before = records(home)
    found = borg("--home", home, "task", "new", "--text", text, "--name", "y", "--yes")  # nano
    assert found.code == 2 and "too small for the budget nano" in found.err and "--budget pico" in found.err
    (tmp_path / "short.txt").write_text("a few words\n" * 30)
    found = borg("--home", home, "task", "new", "--text", tmp_path / "short.txt", "--name", "y", "--yes")
    assert found.code == 2 and "This text cannot become a task" in found.err and "give more text" in found.err
    assert records(home) == before and not list((home / "work").glob("task-*"))


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 1)])
def test_it_asks_before_it_publishes(home: Path, text: Path, answer: bytes, code: int) -> None:
    before = records(home)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [*MAIN, "--home", str(home), "task", "new", "--text", str(text), "--name", "z"],
            stdin=theirs, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "every node of this mesh" in done.stderr and "Nothing calls it back." in done.stderr
    assert "Nothing was published." in done.stderr and records(home) == before


def test_without_a_node_nothing_is_founded(borg: Borg, text: Path, tmp_path: Path) -> None:
    found = borg("--home", tmp_path / "no", "task", "new", "--text", text, "--name", "z", "--yes", "--json")
    assert found.code == 4 and "borg init" in json.loads(found.out)["error"]["message"]
    assert not (tmp_path / "no" / "log.sqlite").exists()


def test_run_says_which_tasks_there_are_when_one_is_unknown(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN[2], "--home", str(home), "run", "--task", "no such", "--no-explorer",
         "--listen", "127.0.0.1:0", "--seconds", "60"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and "No task no such." in done.stderr and "borg task list" in done.stderr
