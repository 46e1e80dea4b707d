"""Calling the command line in this process, and a small home directory to call it on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from spore_borg import cli
from spore_borg.records.canonical import encode
from spore_borg.records.cid import Cid

ANN, BOB = "ann" + "a" * 49, "bob" + "b" * 49


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


Borg = Callable[..., Result]


@pytest.fixture
def borg(capsys: pytest.CaptureFixture[str]) -> Borg:
    """Call ``borg …`` and give exit code and output."""

    def call(*arguments: object) -> Result:
        code = cli.call([str(one) for one in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def quick_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the import of torch, which takes seconds of CPU; one test of the doctor makes it."""
    said = json.dumps({"version": "2.13.0", "device": "CPU", "cuda_build": None})
    monkeypatch.setattr("spore_borg.cli.checks.TORCH_CODE", f"print({said!r})")


def block(name: str) -> tuple[str, bytes]:
    """A cid and the bytes it stands for."""
    raw = encode({"kind": "experiment", "body": {"why": name, "seed": b"\x01\x02"}})
    return str(Cid.of(raw)), raw


BASE, BETTER = block("base"), block("better")
META = {"mesh": "bmesh", "mesh_name": "home", "round": "7", "round_settled": "5", "digest": "ab" * 32, "records": "2",
        "me": ANN, "status": "mesh", "version": "3", "epoch_latest": "9"}  # fmt: skip


def insert(connection: sqlite3.Connection, table: str, **values: object) -> None:
    names = ", ".join(values)
    marks = ", ".join("?" for _ in values)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))


def fill(connection: sqlite3.Connection) -> None:
    connection.executescript((resources.files("spore_borg.store") / "schema.sql").read_text(encoding="utf-8"))
    for key, value in META.items():
        insert(connection, "meta", key=key, value=value)
    insert(connection, "task", cid="btask", name="nano", metric="val_bpb", direction="min", unit="nano-bits/byte",
           sigma=1_500_000, gain_min=1, budget_flops=1, segments=10, blocks=8, val_bytes=1000, data="d", evaluator="e",
           author=ANN, body="{}")  # fmt: skip
    recipes = ({"lr": 4000, "width": 64}, {"lr": 6000, "width": 64})
    for seq, ((cid, _raw), recipe) in enumerate(zip((BASE, BETTER), recipes, strict=True), 1):
        second = seq == 2
        insert(connection, "record", seq=seq, cid=cid, kind="experiment", author=ANN, aseq=seq, epoch=seq, round=seq,
               title="baseline" if not second else "lr 4000 → 6000\x1b[2J", size_bytes=300)  # fmt: skip
        insert(connection, "experiment", seq=seq, cid=cid, task="btask", **{"class": "CPU_X86_64"}, author=ANN,
               epoch=seq, base=BASE[0] if second else None, depth=seq - 1, operator="deck", why="", seed="00",
               recipe=json.dumps(recipe), recipe_digest=f"r{seq}", metric=2_300_000_000 - seq * 10_000_000,
               changed=json.dumps([["lr", 4000, 6000]] if second else []), gain=10_000_000 if second else None,
               steps=100, flops=1, cpu_ms=1, params_count=1, fingerprint="f", curve="[]", outcome="kept",
               verdict="confirmed", stage="settled", reason="All drawn nodes agree.", settled=1, frontier=1,
               frontier_why="best")  # fmt: skip
        insert(connection, "frontier", task="btask", **{"class": "CPU_X86_64"}, step=seq, cid=cid, seq=seq,
               recipe_digest=f"r{seq}", metric=2_300_000_000 - seq * 10_000_000, runs=1, gain=10_000_000, round=seq,
               threshold=3_000_000, author=ANN, verdicts=1, status="confirmed" if second else "solo")  # fmt: skip
    for tier in ("T1", "T2"):
        insert(connection, "attestation", target=BETTER[0], claim=BETTER[0], author=BOB, **{"class": "CPU_X86_64"},
               drawn=1, jury=0, tier=tier, word="pass", probe="8 blocks", detail="{}", round=4)  # fmt: skip
    for rank, (name, display) in enumerate(((ANN, "ann"), (BOB, "bob"))):
        insert(connection, "node", name=name, display=display, **{"class": "CPU_X86_64"}, fingerprint="f",
               device="CPU", role="full", root=1 - rank, score=1, frauds=0, trust=(3 - rank) << 20, banned=0,
               influence_ppm=500_000, records=1, experiments=2 - 2 * rank, attestations=2 * rank,
               last_epoch=9)  # fmt: skip
    insert(connection, "ledger", node=ANN, round=5, rule="accepted", amount=1 << 20, total=3 << 20, cause=BETTER[0],
           sentence="Its result was confirmed.")  # fmt: skip
    insert(connection, "queue", claim=BASE[0], target=BASE[0], task="btask", author=ANN, **{"class": "CPU_X86_64"},
           stage="waiting", priority=5, parts='{"age": 5}', drawn=json.dumps([BOB]), waiting_for=json.dumps([BOB]),
           round_deadline=9, sentence="Waits for bob.")  # fmt: skip
    connection.commit()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory in which a node has run: two experiments, one confirmed; no node runs now."""
    views = sqlite3.connect(tmp_path / "views.sqlite")
    fill(views)
    views.close()
    log = sqlite3.connect(tmp_path / "log.sqlite")
    log.execute(
        "CREATE TABLE record (seq INTEGER PRIMARY KEY, cid BLOB UNIQUE, raw BLOB, received_ms INTEGER)"
    )
    for cid, raw in (BASE, BETTER):
        log.execute(
            "INSERT INTO record (cid, raw, received_ms) VALUES (?, ?, 0)", (bytes(Cid.parse(cid)), raw)
        )
    log.commit()
    log.close()
    return tmp_path
