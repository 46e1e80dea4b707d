"""A mesh of two real nodes, end to end: research, evidence, a kill, and what the directories then prove.

The nodes run once; the tests after that read the directories that they left. About 60 s on an idle machine.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spore_borg import cli
from spore_borg.errors import EXIT_INTEGRITY, EXIT_LOCKED
from spore_borg.home import Home
from spore_borg.node import control_client, identity
from spore_borg.records.envelope import Record
from spore_borg.store.log import Log
from spore_borg.views.reduce import View
from tests.node.nodes import NodeProcess, all_gone, eventually

EPOCH_MS = 2_000


@dataclass
class Story:
    """What happened while the nodes ran, and the directories that they left."""

    first: Path
    second: Path
    third: Path
    statuses: list[int] = field(default_factory=list)
    orphans: dict[str, bool] = field(default_factory=dict)  # name → whether nothing was left running
    facts: dict[str, Any] = field(default_factory=dict)


def borg(*arguments: object) -> int:
    return cli.call([str(one) for one in arguments])


def talk(home: Path, raw: bytes) -> dict[str, Any]:
    """What the node answers to these bytes on its control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(20)
        wire.connect(str(Home(home).control))
        wire.sendall(raw)
        wire.shutdown(socket.SHUT_WR)
        with wire.makefile("rb") as lines:
            return dict(json.loads(lines.readline()))


def accepted(event: dict[str, Any]) -> bool:
    return event.get("verdict") == "accepted"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    room = tmp_path_factory.mktemp("mesh")
    told = Story(room / "1", room / "2", room / "3")
    nodes: list[NodeProcess] = []
    try:
        _run(told, nodes)
        yield told
    finally:
        for node in nodes:
            node.close()


def _run(told: Story, nodes: list[NodeProcess]) -> None:
    first = NodeProcess(
        told.first, "--task", "pico", "--epoch-ms", EPOCH_MS, "--listen", "127.0.0.1:0", "--explorer-port", 0,
        "--name", "first",
    )  # fmt: skip
    nodes.append(first)
    started = first.wait("started")["text"]
    ticket = first.wait("ticket")["ticket"]
    second = NodeProcess(
        told.second,
        "--verify-only",
        "--join",
        ticket,
        "--listen",
        "127.0.0.1:0",
        "--no-explorer",
        "--name",
        "second",
    )
    nodes.append(second)
    told.facts["join"] = second.wait("joined")
    first.wait("verdict", accepted)
    second.wait("evidence")

    told.facts["status"] = control_client.ask(told.first, "status", timeout_s=30)
    told.facts["peers"] = control_client.ask(told.first, "peers", timeout_s=30)
    told.facts["nonsense"] = [talk(told.first, raw) for raw in NONSENSE]
    told.facts["alive"] = control_client.ask(told.first, "status", timeout_s=30)["node"]
    told.facts["locked"] = borg("--home", told.first, "run")
    for suffix in ("", "-wal", "-shm"):
        (told.second / f"views.sqlite{suffix}").unlink(missing_ok=True)
    told.facts["views are back"] = eventually((told.second / "views.sqlite").is_file)

    _look_on(told, nodes, control_client.ask(told.first, "ticket", timeout_s=30, invite=False))
    first.wait("experiment")
    children = first.children()
    told.facts["children"] = len(children)
    first.kill()
    told.orphans["killed"] = all_gone(children)
    address = started.rsplit(" ", 1)[1]
    again = NodeProcess(told.first, "--listen", address, "--no-explorer")
    nodes.append(again)
    told.facts["started"] = (started, again.wait("started")["text"])
    again.wait("published")
    again.wait("verdict", accepted)

    second.kill()  # and its log is lost, but not its key
    told.facts["lost"] = len(records(told.second))
    for suffix in ("", "-wal", "-shm"):
        (told.second / f"log.sqlite{suffix}").unlink(missing_ok=True)
    ticket = control_client.ask(told.first, "ticket", timeout_s=30, invite=False)
    second = NodeProcess(
        told.second, "--verify-only", "--join", ticket, "--listen", "127.0.0.1:0", "--no-explorer"
    )
    nodes.append(second)
    second.wait("joined")
    second.wait("evidence")
    _stop(told, [second, again])
    last = NodeProcess(told.first, "--experiments", 1, "--listen", "127.0.0.1:0", "--no-explorer")
    nodes.append(last)
    last.wait("done")
    told.statuses.append(last.ended(60))
    told.facts["published"] = len([item for item in last.seen if item["event"] in ("published", "crashed")])


def _look_on(told: Story, nodes: list[NodeProcess], ticket: str) -> None:
    """A third node that only keeps records in step and shows the pages."""
    third = NodeProcess(
        told.third, "--no-train", "--join", ticket, "--listen", "127.0.0.1:0", "--explorer-port", 0
    )
    nodes.append(third)
    url = third.wait("explorer")["url"]
    third.wait("verdict", accepted)
    with urllib.request.urlopen(f"{url}frontier.json", timeout=30) as answer:
        told.facts["page"] = json.load(answer)
    children = third.children()
    told.statuses.append(third.interrupt())
    told.orphans["3"] = all_gone(children)


def _stop(told: Story, nodes: list[NodeProcess]) -> None:
    for node in nodes:
        children = node.children()
        told.statuses.append(node.interrupt())
        told.orphans[node.home.name] = all_gone(children)


NONSENSE = (
    b"\n", b"\x00\xff\n", b"[]\n", b"{}\n", b'{"op": "no such"}\n', b'{"op": []}\n', b"[" * 60_000 + b"\n",
    b"x" * 70_000,
    b'{"op": "connect"}\n', b'{"op": "connect", "address": 5}\n', b'{"op": "connect", "address": "h:99999"}\n',
    b'{"op": "connect", "address": "borg1aaaa"}\n', b'{"op": "fetch", "cid": "b"}\n', b'{"op": "fetch", "cid": null}\n',
    b'{"op": "status", "self": 1}\n', b'{"op": "ticket", "invite": "yes"}\n',
)  # fmt: skip


def records(home: Path) -> list[Record]:
    with Log.open_readonly(home / "log.sqlite") as log:
        return [record for _, record in log.scan()]


def test_the_nodes_are_peers_and_answer_nonsense_with_errors(story: Story) -> None:
    status = story.facts["status"]
    assert status["mode"] == "research" and status["status"] == "mesh"
    assert len(story.facts["peers"]) == 1
    for raw, answer in zip(NONSENSE, story.facts["nonsense"], strict=True):
        assert answer.get("error", {}).get("kind") == "UsageError", (raw[:60], answer)
    assert story.facts["alive"] == status["node"]


def test_a_locked_home_is_refused(story: Story) -> None:
    assert story.facts["locked"] == EXIT_LOCKED


def test_views_deleted_under_a_running_node_come_back(story: Story) -> None:
    assert story.facts["views are back"]


def test_nodes_stop_at_once_and_leave_nothing_running(story: Story) -> None:
    assert set(story.statuses) <= {0, 130}
    assert story.facts["children"] >= 2  # a worker and the explorer, at the kill
    assert story.orphans == {"killed": True, "1": True, "2": True, "3": True}


def test_a_node_that_only_syncs_has_everything_and_signs_nothing(story: Story) -> None:
    assert story.facts["page"]["rows"][0]["status"] == "confirmed"
    here = {record.cid for record in records(story.third)}
    assert here <= {record.cid for record in records(story.first)}
    with Log.open_readonly(story.third / "log.sqlite") as log:
        key, _ = identity.load_or_create(story.third / "identity.key")
        assert log.last_of(key.public) is None


def test_research_ends_after_the_wanted_number_of_experiments(story: Story) -> None:
    assert story.facts["published"] == 1 and story.statuses[-1] == 0


def chain_of(view: View, author: bytes) -> list[Record]:
    """The author's records by number; fails where a number is missing or was given twice."""
    chain = sorted((r for r in view.dag.records if r.author == author), key=lambda record: record.seq)
    assert [record.seq for record in chain] == list(range(len(chain)))
    assert [record.prev for record in chain] == [None, *(record.cid for record in chain[:-1])]
    assert not view.ledger.account(author).banned
    return chain


def test_a_killed_node_goes_on_as_itself(story: Story) -> None:
    before, after = story.facts["started"]
    assert before == after  # the same key, the same address
    view = View(records(story.second))
    assert view.genesis is not None
    chain = chain_of(view, view.genesis.body.roots[0])
    assert len([record for record in chain if record.kind == "task"]) == 1  # it goes on with the task it had
    assert len([record for record in chain if record.kind == "join"]) == 1


def test_a_key_whose_log_was_lost_learns_its_past_before_it_signs(story: Story) -> None:
    view = View(records(story.first))
    key, _ = identity.load_or_create(story.second / "identity.key")
    chain = chain_of(view, key.public)
    assert len([record for record in chain if record.kind == "join"]) == 1
    assert len(records(story.second)) > story.facts["lost"]


def test_both_settled_on_the_same(story: Story) -> None:
    one, two = View(records(story.first)), View(records(story.second))
    settled = min(one.round_settled, two.round_settled)
    assert settled > 3
    assert one.digest_of(settled) == two.digest_of(settled) is not None
    steps = [step for frontier in two.frontiers.values() for step in frontier.steps]
    assert steps and any(claim.verdict == "accepted" for claim in two.claims.values())


@pytest.mark.parametrize("which", ["first", "second"])
def test_every_command_reads_the_directory(
    story: Story, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = getattr(story, which)

    def value(*arguments: object) -> Any:
        assert borg("--home", home, *arguments, "--json") == 0, capsys.readouterr().out
        return json.loads(capsys.readouterr().out)

    rebuilt = value("rebuild")
    assert rebuilt["same"] and rebuilt["records"] == len(records(home))
    assert value("check")["ok"]
    best = value("frontier")["rows"][0]
    assert best["status"] == "confirmed" and best["task"]["name"] == "pico"
    assert value("status")["running"] is None
    for command in (("show", best["cid"]), ("diff", best["cid"]), ("log",), ("queue",), ("reputation",)):
        assert value(*command)


@pytest.fixture(scope="module")
def bundle(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "best"
    assert borg("--home", story.first, "frontier", "--fetch", target) == 0
    return target


def test_the_bundle_holds(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert borg("verify", bundle, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["ok"] and {"verdict", "lineage", "evaluation", "view digest"} <= {
        c["name"] for c in value["checks"]
    }


def _flip(path: Path, at: int = -1) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def _split(path: Path) -> list[bytes]:
    raw, parts = path.read_bytes(), []
    while raw:
        (size,) = struct.unpack_from(">I", raw)
        parts.append(raw[: 4 + size])
        raw = raw[4 + size :]
    return parts


def _weights(at: Path) -> None:
    _flip(at / "weights.safetensors")


def _recipe(at: Path) -> None:
    recipe = json.loads((at / "recipe.json").read_text())
    (at / "recipe.json").write_text(json.dumps({**recipe, "lr": recipe["lr"] + 1}))


def _data(at: Path) -> None:
    _flip(at / "data.safetensors")


def _remove(at: Path) -> None:
    parts = _split(at / "records.bin")
    del parts[len(parts) // 2]
    (at / "records.bin").write_bytes(b"".join(parts))


def _alter(at: Path) -> None:
    _flip(at / "records.bin", len(_split(at / "records.bin")[0]) + 4 + 200)


def _digest(at: Path) -> None:
    about = json.loads((at / "bundle.json").read_text())
    (at / "bundle.json").write_text(json.dumps({**about, "digest": "00" * 32}))


@pytest.mark.parametrize(
    ("damage", "failing"),
    [
        (_weights, "weights.safetensors"), (_recipe, "recipe"), (_data, "data.safetensors"), (_remove, "lineage"),
        (_alter, "signatures"), (_digest, "view digest"),
    ],
)  # fmt: skip
def test_a_tampered_bundle_fails_at_the_right_check(
    bundle: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    failing: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    damage(copy)
    assert borg("verify", copy, "--json") == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert failing in {check["name"] for check in checks if not check["ok"]}
    assert "evaluation" not in {
        check["name"] for check in checks
    }  # nothing is run for a bundle that is not whole


def test_a_bundle_that_was_cut_off_is_damaged(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    raw = (copy / "records.bin").read_bytes()
    (copy / "records.bin").write_bytes(raw[:-1])
    assert borg("verify", copy) == EXIT_INTEGRITY
