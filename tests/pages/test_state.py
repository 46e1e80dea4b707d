"""The state: who is in it with what share, who is apart and why, and the page of one absorbed model."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable

from tests.pages.conftest import Client


def test_members_and_those_apart_are_told_apart(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    db = sqlite3.connect(ask.home / "views.sqlite")
    want = {row[0]: bool(row[1]) for row in db.execute("SELECT cid, member FROM shard")}
    db.close()
    value = ask.get("/state.json").json()
    got = {row["cid"]: True for row in value["members"]}
    path = "/state.json"
    while path:
        page = ask.get(path).json()
        got |= {row["cid"]: False for row in page["apart"]}
        path = f"/state.json?before={page['before']}" if page["before"] else ""
    assert got == want
    assert all(row["standing"] for row in value["apart"])


def test_shares_of_a_modality_make_a_whole(client: Callable[[str], Client]) -> None:
    shares: dict[str, int] = defaultdict(int)
    for row in client("mesh").get("/state.json").json()["members"]:
        shares[row["modality"]] += row["share_ppm"]
        assert row["share_ppm"] > 0
    assert len(shares) == 3
    assert all(1_000_000 - 100 <= total <= 1_000_000 for total in shares.values())


def test_a_digest_names_the_present_state_only(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    digest = ask.get("/state.json").json()["digest"]
    assert ask.get(f"/state/{digest}.json").json() == ask.get("/state.json").json()
    answer = ask.get(f"/state/{'0' * 64}.json")
    assert answer.status_code == 404
    assert digest in answer.json()["detail"]
    assert "11 of 12 nodes report the view" in ask.get("/state").text


def test_an_absorbed_model_says_what_each_probe_says(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    state = ask.get("/state.json").json()
    for row in (*state["members"][:3], *state["apart"][:6]):
        page = ask.get(f"/record/{row['cid']}.json").json()
        assert page["experiment"] is None
        detail = page["absorption"]
        assert detail["shard"]["gains"] == row["gains"]
        assert detail["stands"][-1]["state"] == ("done" if row["member"] else detail["stands"][-1]["state"])
        assert len(detail["sources"]) == 2
        text = ask.get(f"/record/{row['cid']}").text
        for gain in row["gains"]:
            assert gain["probe"] in text
        assert detail["sources"][0]["blob"] in text


def test_what_only_its_author_says_is_marked(client: Callable[[str], Client]) -> None:
    ask = client("one")
    value = ask.get("/state.json").json()
    assert [row["member"] for row in value["members"]] == [2]
    assert not value["settled_digest"]
    assert "on the word of this node alone" in ask.get("/state").text
    assert ask.get("/state.json").json()["members"][0]["share_ppm"] is None


def test_fidelity_is_never_rounded_up_to_exact() -> None:
    from explorer.show import fidelity

    assert fidelity(0) == "1.0000"
    assert fidelity(1) == "0.9999"
    assert fidelity(1_234_567) == "0.9988"
