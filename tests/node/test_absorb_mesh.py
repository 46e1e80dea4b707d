"""Two real nodes absorb tiny models: one converts, the other verifies, and both hold the same state."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spore_borg.cli import call
from spore_borg.records.cid import Cid
from spore_borg.store.blobs import Blobs
from tests.learn import models
from tests.node.nodes import NodeProcess, eventually

LIMIT_S = 240.0


def shard_rows(home: Path) -> list[dict[str, Any]]:
    """The table ``shard`` of a node."""
    db = sqlite3.connect(f"file:{home / 'views.sqlite'}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in db.execute("SELECT * FROM shard ORDER BY name")]
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def borg(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = call(["--home", str(home), *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_mesh_of_two_absorbs_verifies_and_agrees(
    start_absorbing: Callable[..., NodeProcess], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.tiny_bert(tmp_path / "tiny-bert")
    models.tiny_cnn(tmp_path / "tiny-cnn")
    first = start_absorbing("1")
    ticket = first.wait("ticket")["ticket"]
    second = start_absorbing("2", "--join", ticket)
    second.wait("joined")
    for node, name in ((second, "tiny-bert"), (first, "tiny-cnn")):
        # converted by the one, verified by the other; whether it joins is for the gate to say
        code, value = borg(capsys, node.home, "absorb", str(tmp_path / name), "--licence-ok", "--wait")
        assert value["stage"] == "published", value
        assert value["verdict"] == "confirmed", (value, second.last_words(), first.last_words())
        assert code == (0 if value["member"] else 1)
        assert value["result"]["fidelity_nano"] > 900_000_000
    code, again = borg(capsys, first.home, "absorb", str(tmp_path / "tiny-bert"), "--licence-ok")
    assert (code, again["stage"]) == (1, "refused") and "already absorbed" in again["text"]

    def same() -> bool:
        pair = [
            [(r["cid"], r["verdict"], r["member"]) for r in shard_rows(node.home)] for node in (first, second)
        ]
        return pair[0] == pair[1] and len(pair[0]) == 2

    assert eventually(same, LIMIT_S)
    code, state = borg(capsys, second.home, "state", "--all")
    assert code == 0 and {row["name"] for row in state["shards"]} == {"tiny-bert", "tiny-cnn"}
    assert first.interrupt() == second.interrupt() == 0


def large_bert(folder: Path) -> None:
    """A tiny BERT with an embedding of 2.2 million words: 280 MB, above what everybody verifies."""
    models.tiny_bert(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "embeddings.word_embeddings.weight"
    rest = 2_200_000 - tensors[name].shape[0]
    tensors[name] = torch.cat([tensors[name], torch.zeros(rest, tensors[name].shape[1])])
    save_file(tensors, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 2_200_000}))


@pytest.mark.slow
def test_a_model_above_what_the_other_node_takes_on_waits_for_it_and_costs_nobody_trust(
    start_absorbing: Callable[..., NodeProcess], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large_bert(tmp_path / "large-bert")
    first = start_absorbing("1")
    ticket = first.wait("ticket")["ticket"]
    second = start_absorbing("2", "--join", ticket, settings="verify_bytes_max = 0\n")
    second.wait("joined")
    borg(capsys, first.home, "absorb", str(tmp_path / "large-bert"), "--licence-ok")
    cid = first.wait("published", limit_s=LIMIT_S)["cid"]

    def row() -> dict[str, Any]:
        return next((row for row in shard_rows(second.home) if row["cid"] == cid), {})

    assert eventually(lambda: "Too large for the nodes that are here" in str(row().get("reason")), LIMIT_S)
    assert eventually(lambda: row().get("settled"), LIMIT_S), row()
    assert (row()["verdict"] != "confirmed", row()["member"]) == (True, 0), row()
    assert not Blobs(second.home / "blobs").has(Cid.parse(row()["weights"])), "not fetched"
    ledger = borg(capsys, first.home, "reputation")[1]
    assert "no-show" not in json.dumps(ledger)
    assert second.interrupt() == 0
    (second.home / "config.toml").write_text(
        'suite = "small"\noffline = true\nverify_bytes_max = 1000000000\n'
    )
    again = start_absorbing("2")
    again.wait("joined")
    assert eventually(lambda: row().get("verdict") == "confirmed", LIMIT_S), (row(), again.last_words())
    assert first.interrupt() == again.interrupt() == 0
