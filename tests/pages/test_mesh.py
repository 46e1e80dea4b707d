"""Peers, nodes and rounds: what the node says of its peers is bounded, and lag is counted from the newest round."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from explorer import svg
from explorer.pages.mesh import Round
from tests.pages.conftest import Client


def test_lag_and_agreement_of_every_node(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    value = ask.get("/mesh.json").json()
    db = sqlite3.connect(ask.home / "views.sqlite")
    epochs = dict(db.execute("SELECT name, last_epoch FROM node").fetchall())
    digests = dict(db.execute("SELECT name, digest FROM node").fetchall())
    db.close()
    newest = value["frame"]["epoch"]
    assert {n["node"]["name"]: n["lag_epochs"] for n in value["nodes"]} == {
        name: newest - epoch for name, epoch in epochs.items()
    }
    assert {n["node"]["name"]: n["digest_same"] for n in value["nodes"]} == {
        name: digest == "ab" * 32 for name, digest in digests.items()
    }
    assert sum(n["me"] for n in value["nodes"]) == 1
    assert value["after"] is None


def test_peers_link_to_nodes_and_strange_ones_do_not(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    value = ask.get("/mesh.json").json()
    assert len(value["peers"]) == 5
    text = ask.get("/mesh").text
    for peer in value["peers"]:
        assert f'href="/node/{peer["name"]}"' in text
    strange = client("hostile").get("/mesh.json").json()["peers"]
    assert {peer["name"] for peer in strange} == {""}
    assert {peer["latency_ms"] for peer in strange} == {None}


def test_rounds_are_newest_first_and_every_one_is_drawn(client: Callable[[str], Client]) -> None:
    value = client("mesh").get("/mesh.json").json()
    numbers = [r["round"] for r in value["rounds"]]
    assert numbers == sorted(numbers, reverse=True)
    settled = value["frame"]["round_settled"]
    assert all(r["settled"] == (r["round"] <= settled) for r in value["rounds"])
    drawn = svg.bars([Round(**r) for r in value["rounds"]])
    assert drawn.settled.count("M") + drawn.young.count("M") == len(numbers) == drawn.acknowledged.count("M")


def test_psi_is_told_with_what_it_is_made_of(client: Callable[[str], Client]) -> None:
    from spore_borg.views.health import PARTS, psi

    value = client("mesh").get("/mesh.json").json()
    assert [part["name"] for part in value["health"]] == ["psi", *PARTS]
    whole, *parts = value["health"]
    assert whole["value"] == psi(part["value"] for part in parts)
    for part in value["health"]:
        assert part["points"][-1] == {"round": value["frame"]["round_settled"], "value": part["value"]}
        assert [point["round"] for point in part["points"]] == sorted(
            point["round"] for point in part["points"]
        )
    text = client("mesh").get("/mesh").text
    assert f"{parts[0]['a']} of {parts[0]['b']}" in text
    assert text.count("<svg") - text.count('class="g"') >= 6
    assert "nothing to measure" in client("empty").get("/mesh").text
