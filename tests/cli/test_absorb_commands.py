"""borg state, absorb and retract without a running node: what they print, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spore_borg.cli import call
from spore_borg.home import Home
from spore_borg.node.requests import Requests
from spore_borg.store.log import Log
from spore_borg.store.tables import Tables
from spore_borg.views.rows import tables
from tests.absorb_world import AbsorbWorld
from tests.merge_world import lineage_of


@pytest.fixture(scope="module")
def world() -> AbsorbWorld:
    world = AbsorbWorld(1)
    world.populate("ann", "ben")
    world.absorb_task()
    world.run(2)
    world.absorbed("ann", "minilm")
    world.absorbed("ben", "useless", gains={0: 0, 1: 0})
    return world


@pytest.fixture
def home(world: AbsorbWorld, tmp_path: Path) -> Path:
    made = Home(tmp_path / "h").create()
    with Log(made.log) as log:
        log.append(world.records)
    seq = {record.cid: number for number, record in enumerate(world.records, 1)}
    views = Tables(made.views)
    views.publish(tables(world.view(), seq, world.nodes["root"].key.public))
    views.close()
    return made.path


def test_state_lists_members_and_says_why_others_are_none(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["--home", str(home), "state"]) == 0
    out = capsys.readouterr().out
    assert "minilm" in out and "few-spike/1 T=5" in out and "topics +0.0" in out and "confirmed" in out
    assert "useless" not in out and "1 more did not join" in out
    assert call(["--home", str(home), "state", "--all"]) == 0
    assert "useless: The state gets better in no probe beyond the noise" in capsys.readouterr().out


def test_state_as_json_is_the_rows_with_fidelity(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--home", str(home), "state", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    (row,) = value["shards"]
    assert (value["members"], row["name"], row["member"], len(value["digest"])) == (1, "minilm", 1, 64)
    assert row["fidelity_nano"] == 10**9 - row["metric"] and row["gains"][0]["word"] == "better"


def test_an_empty_state_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--home", str(tmp_path / "none"), "state"]) == 4
    assert "borg init" in capsys.readouterr().err


def test_retracting_needs_a_node(home: Path, world: AbsorbWorld, capsys: pytest.CaptureFixture[str]) -> None:
    cid = str(next(record.cid for record in world.records if record.kind == "absorption"))
    assert call(["--home", str(home), "retract", cid]) == 5
    assert "borg run" in capsys.readouterr().err
    assert call(["--home", str(home), "retract", "zzz"]) == 4


def test_what_is_asked_without_a_node_is_kept_and_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["--home", str(home), "absorb", "hf:org/model"]) == 0
    assert "kept for the next `borg run`" in capsys.readouterr().out
    assert call(["--home", str(home), "state"]) == 0
    assert "under way: hf:org/model" in capsys.readouterr().out
    assert call(["--home", str(home), "absorb", "hf:org/model", "--steps", "33"]) == 2


def test_a_wish_to_merge_without_a_node_is_kept_with_whole_ids(
    home: Path, world: AbsorbWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    cids = sorted(str(record.cid) for record in world.records if record.kind == "absorption")
    parts = [f"…{cid[-10:]}" for cid in cids]
    assert call(["--home", str(home), "merge", *parts, "--rule", "mean/1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "queued"
    (request,) = Requests(Home(home)).all()
    assert (request.inputs, request.merging, request.base) == (cids, "mean/1", None)
    assert call(["--home", str(home), "merge", parts[0], parts[0]]) == 2
    assert "two different" in capsys.readouterr().err
    assert call(["--home", str(home), "merge", parts[0], "zzz"]) == 4
    assert call(["--home", str(home), "merge", *parts, "--rule", "median/1"]) == 2


def test_state_says_of_how_many_a_model_is_a_merge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ben", inputs)
    made = Home(tmp_path / "h").create()
    seq = {record.cid: number for number, record in enumerate(world.records, 1)}
    views = Tables(made.views)
    views.publish(tables(view, seq, world.nodes["root"].key.public))
    views.close()
    with Log(made.log) as log:
        log.append(world.records)
    assert call(["--home", str(made.path), "state"]) == 0
    out = capsys.readouterr().out
    assert "merged (merge of 2)" in out and "of 1 model(s)" in out
    assert call(["--home", str(made.path), "state", "--all", "--json"]) == 0
    rows = {row["cid"]: row for row in json.loads(capsys.readouterr().out)["shards"]}
    assert [cid for cid, _ in rows[str(claim.target.cid)]["inputs"]] == [str(cid) for cid in sorted(inputs)]
    assert "has taken its place" in rows[str(inputs[0])]["standing"]
