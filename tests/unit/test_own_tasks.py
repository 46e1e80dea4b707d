"""A task of one's own text: what is taken of a directory, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.errors import NotAllowed, NotFound, UsageError
from spore_borg.home import Home
from spore_borg.learn.digest import learn_digest
from spore_borg.node import own_tasks, setup
from spore_borg.node.hub import Hub
from spore_borg.records.cid import Cid
from spore_borg.runner import evaluators
from workspace import lattice_data, lattice_harness, tasks, texts
from workspace.digest import harness_digest


def write(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


def test_hidden_files_links_and_other_kinds_are_left_out(tmp_path: Path) -> None:
    room, outside = tmp_path / "room", tmp_path / "outside"
    kept = [write(room / "a.txt", b"a"), write(room / "deep" / "b.MD", b"b")]
    write(room / ".hidden.txt", b"h")
    write(room / ".git" / "c.txt", b"c")
    write(room / "d.pdf", b"d")
    secret = write(outside / "e.txt", b"e")
    (room / "link.txt").symlink_to(secret)
    (room / "linked").symlink_to(outside)
    assert texts.text_files(room) == kept
    assert texts.text_files(secret) == [secret]  # named itself, any file is meant


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"PK\x03\x04", "holds the byte 0x03"),
        (b"a\0b", "holds the byte 0x00"),
    ],
)
def test_binary_files_are_refused_by_name(tmp_path: Path, raw: bytes, words: str) -> None:
    file = write(tmp_path / "x.txt", raw)
    with pytest.raises(UsageError, match=words) as caught:
        own_tasks.survey(file)
    assert str(file) in str(caught.value)


def test_no_text_and_too_much_of_it_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no text in .*give a text file"):
        own_tasks.survey(tmp_path)
    write(tmp_path / "a.txt", b"x" * 1_000)
    write(tmp_path / "b.txt", b"x" * 1_001)
    monkeypatch.setattr(texts, "TEXT_BYTES_MAX", 2_000)
    with pytest.raises(UsageError, match="give fewer files"):
        own_tasks.survey(tmp_path)


def test_marks_and_line_ends_of_other_systems_are_no_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\r\ntwo")
    assert texts.file_documents(file) == ["one\n\ntwo"]
    assert own_tasks.survey(file) == own_tasks.Survey(1, 13, 8)


def test_documents_hold_everything_once(tmp_path: Path) -> None:
    text = "\n\n".join(f"paragraph {number} " + "x" * (number % 700 * 10) for number in range(300))
    documents = texts.file_documents(write(tmp_path / "a.txt", text.encode()))
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert max(map(len, documents)) < 3 * texts.DOCUMENT_CHARACTERS


@pytest.mark.parametrize(
    "name", ["", " a", "-a", "nano", "lattice", "absorb", "a\nb", "x" * 65, "é" * 33, "bafyreigngpb5ede4"]
)
def test_names_that_mislead_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        own_tasks.check_words(name, "MIT")
    with pytest.raises(UsageError, match="licence"):
        own_tasks.check_words("tales", "x" * 201)
    own_tasks.check_words("my tales 2", "public domain")


def test_a_task_is_found_by_name_or_by_the_beginning_of_its_id() -> None:
    cid = Cid.of(b"a task")
    assert own_tasks.fits(None, "tales", cid) and own_tasks.fits("tales", "tales", cid)
    assert own_tasks.fits(str(cid), "tales", cid) and own_tasks.fits(str(cid)[:20], "tales", cid)
    assert not own_tasks.fits("bafy", "tales", cid) and not own_tasks.fits("tale", "tales", cid)
    assert not own_tasks.fits(str(Cid.of(b"another")), "tales", cid)


def test_digests_are_those_that_the_worker_says() -> None:
    assert evaluators.digests() == {
        "evaluator": harness_digest().hex(), "absorber": learn_digest().hex(),
        "lattice": lattice_harness.lattice_digest().hex(),
    }  # fmt: skip


# ---- publishing


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    home = Home(tmp_path / "h").create()
    made, _ = setup.open_hub(home, None, epoch_ms=15_000, name="")
    yield made
    made.close()


def settings(**changes: Any) -> dict[str, Any]:
    return tasks.spec("pico") | {"name": "tales", "corpus": "tales", "licence": "MIT"} | changes


EVALUATOR = "ab" * 32


def test_a_published_task_says_data_licence_and_evaluator(hub: Hub) -> None:
    dataset = write(hub.home.work / "task-1.safetensors", b"data" * 100)
    found = trio.run(own_tasks.publish_from, hub, str(dataset), json.dumps(settings()), EVALUATOR)
    record = next(record for record in hub.records if str(record.cid) == found)
    body = record.body
    assert (body.name, body.spec["licence"], body.spec["corpus"]) == ("tales", "MIT", "tales")
    assert body.evaluator.hex() == EVALUATOR and hub.blobs.read(body.data) == b"data" * 100
    assert not dataset.exists() and body.tolerance > 0
    with pytest.raises(UsageError, match="has a task 'tales' already"):
        own_tasks.check_new(hub, settings(), EVALUATOR)


def test_a_lattice_of_ones_own_text_allows_no_difference(hub: Hub) -> None:
    told = lattice_data.spec(5_200, 1_024) | {"name": "tales", "licence": "MIT"}
    record = own_tasks.publish(hub, Cid.of(b"data"), told, EVALUATOR)
    assert record.body.tolerance == 0 and record.body.spec["kind"] == "lattice"


@pytest.mark.parametrize(
    "told",
    ["[]", "{", json.dumps({"name": "x"}), json.dumps(settings(name="x" * 65)), json.dumps(settings(licence=[1])),
     json.dumps(settings(blocks=10**9)), json.dumps(settings(kind="lattice", block_tokens="a"))],
)  # fmt: skip
def test_settings_that_are_no_tasks_store_nothing(hub: Hub, told: str) -> None:
    dataset = write(hub.home.work / "task-1.safetensors", b"data")
    before = len(hub.records)
    with pytest.raises(UsageError):
        trio.run(own_tasks.publish_from, hub, str(dataset), told, EVALUATOR)
    assert len(hub.records) == before and not list(hub.blobs.list()) and dataset.exists()


def test_only_the_nodes_own_work_becomes_data(hub: Hub, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", b"secret")
    (hub.home.work / "task-1.safetensors").symlink_to(secret)
    for path in (secret, hub.home.key, hub.home.work / ".." / "identity.key"):
        with pytest.raises(UsageError, match="own work directory"):
            trio.run(own_tasks.publish_from, hub, str(path), json.dumps(settings()), EVALUATOR)
    with pytest.raises(Exception, match="not a plain file"):
        trio.run(
            own_tasks.publish_from,
            hub,
            str(hub.home.work / "task-1.safetensors"),
            json.dumps(settings()),
            EVALUATOR,
        )


def test_who_has_not_joined_signs_nothing(tmp_path: Path, hub: Hub) -> None:
    other = Home(tmp_path / "other").create()
    ticket_of = hub.log.meta("mesh")
    key, _ = setup.identity.load_or_create(other.key)
    newcomer = Hub(other, key, Cid.parse(ticket_of or ""))
    try:
        with pytest.raises(NotAllowed, match="has not joined its mesh yet"):
            own_tasks.check_new(newcomer, settings(), EVALUATOR)
    finally:
        newcomer.close()
    with pytest.raises(NotFound, match="borg init"):
        own_tasks.must_exist(Home(tmp_path / "nowhere"))
