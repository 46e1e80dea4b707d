"""A text of one's own as a task of two real nodes: the second has never seen it, verifies a run on it, works on it.

The nodes run once; the tests after that read what they left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spore_borg import cli
from spore_borg.node import control_client
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.store.blobs import Blobs
from spore_borg.store.log import Log
from spore_borg.views.reduce import View
from tests import own_text
from tests.node.nodes import NodeProcess, eventually

pytestmark = pytest.mark.slow

COMMON = ("--listen", "127.0.0.1:0", "--no-explorer")


@dataclass
class Story:
    """What happened, and the directories that the nodes left."""

    first: Path
    second: Path
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)  # on the second node, by name


def borg(*arguments: object) -> int:
    return cli.call([str(one) for one in arguments])


def accepted(event: dict[str, Any]) -> bool:
    return event.get("verdict") == "accepted"


def own(event: dict[str, Any]) -> bool:
    return accepted(event) and "own claim" in str(event["text"])


def records(home: Path) -> list[Record]:
    with Log.open_readonly(home / "log.sqlite") as log:
        return [record for _, record in log.scan()]


def tasks_of(home: Path) -> dict[str, dict[str, Any]]:
    from spore_borg.cli import cmd_task, reading

    with reading.views(home) as db:
        return {row["name"]: row for row in cmd_task.rows(db, home)}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    room = tmp_path_factory.mktemp("own")
    told, text = Story(room / "1", room / "2"), own_text.write(room / "text")
    nodes: list[NodeProcess] = []
    new = ("task", "new", "--text", text, "--yes")
    try:
        assert borg("--home", told.first, "init", "--epoch-ms", 2_000) == 0
        assert (
            borg("--home", told.first, *new, "--name", "tales", "--budget", "pico", "--licence", "mine") == 0
        )
        nodes.append(NodeProcess(told.first, "--task", "tales", *COMMON))
        ticket = nodes[0].wait("ticket")["ticket"]
        nodes.append(NodeProcess(told.second, "--verify-only", "--join", ticket, *COMMON))
        nodes[1].wait("joined")
        nodes[0].wait("verdict", own)
        # through the running node, while it trains
        assert borg("--home", told.first, *new, "--name", "letters", "--kind", "lattice") == 0
        assert eventually(lambda: tasks_of(told.second).get("letters", {}).get("acknowledged", False), 60)
        told.listed = tasks_of(told.second)
        assert nodes[1].interrupt() in (0, 130)
        part = told.listed["letters"]["cid"][:20]
        nodes.append(NodeProcess(told.second, "--task", part, *COMMON))
        nodes[2].wait("published")
        nodes[2].wait("verdict", own)
        assert control_client.ask(told.first, "status", timeout_s=30)["node"]
        for node in (nodes[0], nodes[2]):
            assert node.interrupt() in (0, 130)
        yield told
    finally:
        for node in nodes:
            node.close()


def test_the_second_node_verified_a_run_on_a_text_that_it_had_to_fetch(story: Story) -> None:
    view = View(records(story.first))
    (task,) = [cid for cid, task in view.tasks.items() if task.name == "tales"]
    (genesis,) = [record for record in records(story.first) if record.kind == "genesis"]
    claims = [claim for claim in view.claims.values() if claim.task is view.tasks[task]]
    good = [claim for claim in claims if claim.verdict == "accepted"]
    assert good and all(claim.author == genesis.author for claim in good)
    judges = {who for claim in good for who, item in claim.evidence.items() if item.reveal is not None}
    assert judges and genesis.author not in judges
    assert not [claim for claim in claims if claim.verdict == "refuted"]


def test_its_data_arrived_by_digest_and_are_the_same(story: Story) -> None:
    data = Cid.parse(story.listed["tales"]["data"])
    one, two = Blobs(story.first / "blobs"), Blobs(story.second / "blobs")
    two.verify(data)
    assert one.read(data) == two.read(data)
    text = json.loads(one.read(data)[8 : 8 + int.from_bytes(one.read(data)[:8], "little")])
    assert text["__metadata__"]["licence"] == "mine" and text["__metadata__"]["corpus"] == "tales"


def test_the_list_says_what_the_second_node_can_do(story: Story) -> None:
    tales, letters = story.listed["tales"], story.listed["letters"]
    assert tales["verifies_here"] and tales["data_here"] and tales["licence"] == "mine"
    assert tales["frontier"][0]["metric"] > 0 and tales["acknowledged"]
    assert letters["verifies_here"] and not letters["data_here"] and letters["licence"] == "unstated"


def test_the_second_node_worked_on_the_lattice_by_the_beginning_of_its_id(story: Story) -> None:
    view = View(records(story.second))
    (task,) = [cid for cid, task in view.tasks.items() if task.name == "letters"]
    good = [
        claim
        for claim in view.claims.values()
        if claim.task is view.tasks[task] and claim.verdict == "accepted"
    ]
    assert good and {claim.author for claim in good} != {records(story.first)[0].author}
    assert Blobs(story.second / "blobs").has(view.tasks[task].data)
    assert (story.first / "blobs" / str(view.tasks[task].data)).is_file()


def test_the_best_result_on_it_can_be_fetched_and_checked_offline(story: Story, tmp_path: Path) -> None:
    assert borg("--home", story.second, "frontier", "--task", "tales", "--fetch", tmp_path / "best") == 0
    assert borg("verify", tmp_path / "best") == 0
