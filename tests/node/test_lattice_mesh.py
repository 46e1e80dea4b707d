"""Two real nodes grow one lattice: each reads what the other has not, checks it exactly, and both end in one frontier.

The nodes run once, for about 20 s of two processors; the tests after that read what they left.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from tests.node import nodes
from tests.node.nodes import NodeProcess
from workspace import lattice
from workspace.radicals import range_of

pytestmark = pytest.mark.slow

EXPERIMENTS = 6


def accepted(event: dict[str, Any]) -> bool:
    return event.get("verdict") == "accepted" and str(event["text"]).startswith("accepted: own")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    room = tmp_path_factory.mktemp("lattice")
    common = ("--task", "lattice", "--listen", "127.0.0.1:0", "--no-explorer")
    both = [NodeProcess(room / "1", *common, "--epoch-ms", 1_000)]
    try:
        ticket = both[0].wait("ticket")["ticket"]
        both.append(NodeProcess(room / "2", *common, "--join", ticket))
        for _ in range(EXPERIMENTS):  # of each an own result that the other has accepted
            for node in both:
                node.wait("verdict", accepted)
        for node in both:
            assert node.interrupt() in (0, 130)
        yield room / "1", room / "2"
    finally:
        for node in both:
            node.close()


def records(home: Path) -> list[Record]:
    with Log.open_readonly(home / "log.sqlite") as log:
        return [record for _, record in log.scan()]


def value(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = cli.call([*map(str, arguments), "--json"])
    told = capsys.readouterr().out
    assert status == 0, told
    return json.loads(told)


def test_both_have_the_same_frontier_and_reading_made_it_better(homes: tuple[Path, Path]) -> None:
    one, two = (View(records(home)) for home in homes)
    settled = min(one.round_settled, two.round_settled)
    assert one.digest_of(settled) == two.digest_of(settled) is not None
    both = View([record for record in one.dag.records if record.cid in two.dag.index])
    (frontier,) = [one for one in both.frontiers.values() if one.steps]
    assert frontier.steps[-1].metric < frontier.steps[0].metric
    reading = [step for step in frontier.steps if both.body_of(step.cid).bases]
    assert reading, "no step of the frontier builds on another lattice"
    authors = {claim.author for claim in both.claims.values() if claim.verdict == "accepted"}
    assert len(authors) == 2
    assert not [claim for claim in both.claims.values() if claim.verdict == "refuted"]


def test_the_best_lattice_is_a_join_in_which_each_wrote_its_own_rows(homes: tuple[Path, Path]) -> None:
    view = View(records(homes[0]))
    (task,) = [task for task in view.tasks.values() if task.name == "lattice"]
    assert task.tolerance == 0 and task.unit == "nano-bits/character"
    blobs = {home: Blobs(home / "blobs") for home in homes}
    joined = 0
    for claim in view.claims.values():
        weights, recipe = claim.body.weights, claim.recipe
        held = next((store for store in blobs.values() if weights is not None and store.has(weights)), None)
        if held is None or claim.verdict != "accepted":
            continue
        one = lattice.published(held.read(Cid(weights or b"")), int(task.spec["slice_characters"]))
        assert one.params == claim.body.params
        own = {int(recipe["slice"]) + n for n in range(int(recipe["slices"]))}
        new = [key for key in one.lattice.keys.tolist() if not claim.body.bases and key & 63 in own]
        assert all(int(recipe["rows"]) >> range_of(key >> 27) & 1 for key in new)
        joined += len(claim.body.bases) > 0
    assert joined


def test_ranges_of_rows_are_shared_out_between_the_two(homes: tuple[Path, Path]) -> None:
    view = View(records(homes[0]))
    rows: dict[bytes, set[int]] = {}
    for claim in view.claims.values():
        if claim.verdict == "accepted":
            rows.setdefault(claim.author, set()).add(int(claim.recipe["rows"]))
    assert any(owned != 255 for several in rows.values() for owned in several), rows


def test_commands_show_and_check_it(
    homes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = value(capsys, "--home", homes[1], "frontier")
    (row,) = best["rows"]
    read = best["read"][row["cid"]]
    assert row["status"] == "confirmed" and row["task"]["unit"] == "nano-bits/character"
    assert 0 < read["new_runs"] <= read["own_runs"] <= read["runs"] and read["characters"] >= 10_000
    assert value(capsys, "--home", homes[1], "frontier", "--fetch", tmp_path / "best")["task"] == "lattice"
    checked = value(capsys, "verify", tmp_path / "best")
    assert checked["ok"]
    told = {check["name"]: check["detail"] for check in checked["checks"]}
    assert "bpc recomputed here" in told["evaluation"] and "more than 0 nano-bits apart" in told["evaluation"]
    assert value(capsys, "--home", homes[1], "show", row["cid"])["experiment"]["reading"] == read


def test_a_lattice_that_learnt_the_held_out_text_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--listen", "127.0.0.1:0", "--no-explorer")
    running = [NodeProcess(tmp_path / "1", "--task", "lattice", "--epoch-ms", 2_000, *common)]
    try:
        first = running[0]
        ticket = first.wait("ticket")["ticket"]
        running.append(NodeProcess(tmp_path / "2", "--verify-only", "--join", ticket, *common))
        running[1].wait("joined")
        first.wait("verdict", accepted)
        ticket = control_client.ask(tmp_path / "1", "ticket", timeout_s=30)
        monkeypatch.setattr(nodes, "CODE", "from tests.node.lattice_forger import main; main()")
        running.append(NodeProcess(tmp_path / "3", "--task", "lattice", "--join", ticket, *common))
        claimed = running[2].wait("published", lambda event: event["outcome"] == "kept")
        refuted = first.wait("verdict", lambda event: event.get("verdict") == "refuted")
        print(claimed["text"], refuted["text"])
        for node in running:
            node.interrupt()
        view = View(records(tmp_path / "1"))
        lies = [claim for claim in view.claims.values() if claim.verdict == "refuted"]
        assert lies and all(view.ledger.account(claim.author).banned for claim in lies)
        (liar,) = {claim.author for claim in lies}
        # one lie in four is drawn by neither of two verifiers, so the liar may have an accepted claim as well
        honest = {claim.author for claim in view.claims.values() if claim.verdict == "accepted"} - {liar}
        assert honest and not any(view.ledger.account(who).banned for who in honest)
    finally:
        for node in running:
            node.close()
