"""What `borg verify` says of a bundle whose result nobody else has checked, and of directories that are none."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from spore_borg import cli
from spore_borg.errors import EXIT_INTEGRITY, EXIT_NOT_FOUND, EXIT_USAGE, NotFound, UsageError
from spore_borg.node import bundle, rebuild
from spore_borg.node.hub import Hub
from spore_borg.records.cid import Cid
from tests.world import World, h

HubIn = Callable[[World, str], Hub]


def stocked(hub: Hub, world: World) -> Path:
    """The home of a closed hub with the blobs of every claim."""
    hub.blobs.put_bytes(b"data")
    for truth in world.truth.values():
        hub.blobs.put_bytes(h("params", truth.recipe, truth.seed))
    hub.close()
    return hub.home.path


def test_a_solo_result_is_written_as_solo_and_does_not_hold(
    hub_in: HubIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(21)
    world.populate()
    _, claim = world.claim("root")
    home = stocked(hub_in(world, "root"), world)
    about = bundle.fetch(home, tmp_path / "out", task=None, hardware=None)
    assert (about["status"], about["experiment"]) == ("solo", str(claim.target.cid))
    assert cli.call(["verify", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "The bundle does not hold." in said
    failed = [c for c in bundle.verify(tmp_path / "out", evaluate=False)["checks"] if not c["ok"]]
    assert [check["name"] for check in failed] == ["verdict"] and failed[0]["detail"].startswith("solo")


def test_an_accepted_result_holds_but_for_its_evaluation(hub_in: HubIn, tmp_path: Path) -> None:
    world = World(22)
    world.populate("a", "b")
    _, claim = world.claim("a", epochs=14)
    home = stocked(hub_in(world, "b"), world)
    about = bundle.fetch(home, tmp_path / "out", task="toy", hardware="CPU_TEST")
    assert about["status"] == "confirmed"
    value = bundle.verify(tmp_path / "out", evaluate=False)
    assert value["ok"] and value["experiment"] == str(claim.target.cid)


def test_what_cannot_be_fetched_is_told(hub_in: HubIn, tmp_path: Path) -> None:
    world = World(23)
    world.populate()
    empty = hub_in(world, "root")
    with pytest.raises(NotFound, match="accepted result"):
        bundle.fetch(empty.home.path, tmp_path / "out", task=None, hardware=None)
    world.claim("root")
    hub = hub_in(world, "root")  # without its blobs, and no node runs
    with pytest.raises(NotFound, match="Start the node"):
        bundle.fetch(hub.home.path, tmp_path / "out", task=None, hardware=None)
    with pytest.raises(NotFound):
        bundle.fetch(hub.home.path, tmp_path / "out2", task="other", hardware=None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        bundle.fetch(hub.home.path, tmp_path / "full", task=None, hardware=None)


@pytest.mark.parametrize(
    "about",
    [b"", b"[]", b"{}", b'{"experiment": 5}', b'{"experiment": "b"}', b"\xff", b"null", b"[" * 100_000],
)
def test_a_bundle_with_nonsense_about_itself_is_damaged(tmp_path: Path, about: bytes) -> None:
    for name in (bundle.WEIGHTS, bundle.DATA, bundle.RECORDS):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / bundle.RECIPE).write_text("{}")
    (tmp_path / bundle.ABOUT).write_bytes(about)
    assert cli.call(["verify", str(tmp_path)]) == EXIT_INTEGRITY


@pytest.mark.parametrize("raw", [b"", b"\0\0\0\0", b"\0\0\0\1\xa0", b"\0\0\0", b"\xff" * 8])
def test_a_record_file_of_nonsense_is_told(tmp_path: Path, raw: bytes) -> None:
    for name in (bundle.WEIGHTS, bundle.DATA):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / bundle.RECIPE).write_text("{}")
    cid = str(Cid.of(b"x"))
    (tmp_path / bundle.ABOUT).write_text(json.dumps({"experiment": cid}))
    (tmp_path / bundle.RECORDS).write_bytes(raw)
    assert cli.call(["verify", str(tmp_path)]) in (1, EXIT_INTEGRITY)


def test_no_bundle_and_no_directory(tmp_path: Path) -> None:
    assert cli.call(["verify", str(tmp_path)]) == EXIT_NOT_FOUND
    assert cli.call(["verify", str(tmp_path / "absent")]) == EXIT_USAGE


# ---- check and rebuild


def test_rebuild_gives_the_same_views_and_check_finds_a_rotten_blob(hub_in: HubIn) -> None:
    world = World(24)
    world.populate("a")
    world.claim("a")
    hub = hub_in(world, "a")
    cid = hub.blobs.put_bytes(b"weights")
    path = hub.blobs.path(cid)
    hub.close()
    home = hub.home.path
    first = rebuild.rebuild(home)
    again = rebuild.rebuild(home)
    assert again["same"] and first["digest"] == again["digest"] != "" != again["digest_before"]
    assert first["same"] and first["digest_before"] == ""  # there were no views before
    views = sqlite3.connect(home / "views.sqlite")
    views.execute("UPDATE meta SET value = ? WHERE key = 'digest'", ("00" * 32,))
    views.commit()
    views.close()
    assert not rebuild.rebuild(home)["same"]
    assert rebuild.check(home, blobs=True)["ok"]
    path.chmod(0o600)
    path.write_bytes(b"Weights")
    found = rebuild.check(home, blobs=True)
    assert not found["ok"] and str(cid) in found["damage"][0]
    assert rebuild.check(home, blobs=False)["ok"]
