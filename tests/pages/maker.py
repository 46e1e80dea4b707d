"""Fills both databases of a home directory by hand, row by row, for the page tests."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path

from spore_borg.records.canonical import encode
from spore_borg.records.cid import Cid
from spore_borg.records.keys import node_name as _node_name
from spore_borg.views.failures import normalised, signature, words

node_name = lru_cache(64)(_node_name)  # a hundred thousand records of a dozen nodes
text_of = lru_cache(256)(Cid.__str__)
LOG_DDL = """CREATE TABLE record(seq INTEGER PRIMARY KEY, cid BLOB UNIQUE, kind TEXT, author BLOB, aseq INTEGER,
  epoch INTEGER, raw BLOB, received_ms INTEGER)"""
SIGMA = 4_500_000  # 0.0045 bpb
ONE = 1 << 20
START_MS = 1_760_000_000_000
BASE_RECIPE: dict[str, object] = {
    "depth": 4, "width": 64, "heads": 4, "seq_len": 64, "batch_tokens": 1024, "optimizer": "adamw",
    "lr_e6": 3000, "lr_embed_e6": 3000, "beta1_e6": 900000, "beta2_e6": 950000, "weight_decay_e6": 0,
    "warmup_pct": 2, "warmdown_pct": 20, "tied": True, "embed_norm": False, "init_zero_proj": False,
    "activation": "gelu", "grad_clip_e6": 1000000, "dropout_e6": 0, "rope_base": 10000,
}  # fmt: skip


@dataclass
class Maker:
    """Fills both databases of one home directory."""

    home: Path
    rng: random.Random
    views: sqlite3.Connection = field(init=False)
    log: sqlite3.Connection = field(init=False)
    seq: int = 0
    next_aseq: dict[str, int] = field(default_factory=dict)
    mesh: Cid | None = None

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.views = sqlite3.connect(self.home / "views.sqlite", isolation_level=None)
        self.log = sqlite3.connect(self.home / "log.sqlite", isolation_level=None)
        for db in (self.views, self.log):
            db.execute(
                "PRAGMA journal_mode=OFF"
            )  # WAL only when it is filled: one huge transaction is slow there
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA cache_size=-262144")
        self.views.executescript(
            resources.files("spore_borg.store").joinpath("schema.sql").read_text("utf-8")
        )
        self.log.execute(LOG_DDL)
        self.views.execute("BEGIN")
        self.log.execute("BEGIN")

    def insert(self, table: str, **row: object) -> None:
        """One row of the views."""
        marks = ",".join("?" * len(row))
        self.views.execute(f"INSERT INTO {table}({','.join(row)}) VALUES({marks})", list(row.values()))

    def meta(self, **values: object) -> None:
        """Keys of the meta table."""
        for key, value in values.items():
            self.views.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (key, str(value)))

    def commit(self) -> Path:
        """Write everything and close."""
        self.views.execute("COMMIT")
        self.log.execute("COMMIT")
        for db in (self.views, self.log):
            db.execute("PRAGMA journal_mode=WAL")
            db.close()
        return self.home

    def record(
        self,
        kind: str,
        author: bytes,
        epoch: int,
        body: dict[str, object],
        *,
        title: str,
        target: Cid | None = None,
        round_: int | None = None,
    ) -> Cid:
        """One signed record in both databases."""
        name = node_name(author)
        aseq = self.next_aseq.get(name, 0)
        self.next_aseq[name] = aseq + 1
        envelope = {
            "v": 1, "kind": kind, "mesh": self.mesh, "author": author, "seq": aseq, "prev": None, "epoch": epoch,
            "parents": [] if target is None else [target], "body": body, "sig": self.rng.randbytes(64),
        }  # fmt: skip
        raw = encode(envelope)
        cid = Cid.of(raw)
        self.seq += 1
        self.insert(
            "record", seq=self.seq, cid=text_of(cid), kind=kind, author=name, aseq=aseq, epoch=epoch, round=round_,
            target=None if target is None else text_of(target), title=title, size_bytes=len(raw),
        )  # fmt: skip
        self.log.execute(
            "INSERT INTO record VALUES(?,?,?,?,?,?,?,?)",
            (self.seq, bytes(cid), kind, author, aseq, epoch, raw, START_MS + epoch * 20_000),
        )
        return cid

    def genesis(self, author: bytes, name: str) -> Cid:
        """The mesh."""
        body: dict[str, object] = {"name": name, "roots": [author], "time_ms": START_MS, "epoch_ms": 20_000,
                                   "nonce": self.rng.randbytes(16), "params": {}}  # fmt: skip
        self.mesh = self.record("genesis", author, 0, body, title=f"mesh {name}", round_=0)
        return self.mesh

    def node(self, author: bytes, hardware_class: str, trust: int, **more: object) -> None:
        """One node."""
        row: dict[str, object] = dict(
            name=node_name(author), display=None, fingerprint=self.rng.randbytes(32).hex(), device="test device",
            role="research", root=0, score=trust + ONE, frauds=0, trust=trust, influence_ppm=0, banned=0,
            banned_cause=None, records=1, experiments=0, attestations=0, last_epoch=0, last_round=None, digest=None,
            digest_round=None, profile=None,
        )  # fmt: skip
        row["class"] = hardware_class
        self.insert("node", **(row | more))

    def task(self, author: bytes, name: str, budget: int) -> Cid:
        """One task."""
        data = Cid.of(self.rng.randbytes(32), 0x55)
        body: dict[str, object] = {
            "name": name,
            "metric": "val_bpb",
            "direction": "min",
            "data": data,
            "blocks": 64,
        }
        cid = self.record("task", author, 0, body, title=name, round_=1)
        shown = {"name": name, "metric": "val_bpb", "direction": "min", "baseline": BASE_RECIPE}
        self.insert(
            "task", cid=text_of(cid), name=name, metric="val_bpb", direction="min",
            unit="nano-bits per byte", sigma=SIGMA,
            gain_min=10_000_000, budget_flops=budget, segments=10, blocks=64, val_bytes=98_304, data=text_of(data),
            evaluator=self.rng.randbytes(32).hex(), author=node_name(author), body=json.dumps(shown),
        )  # fmt: skip
        return cid

    def experiment(self, author: bytes, epoch: int, task: Cid, hardware_class: str, **given: object) -> Cid:
        """One experiment with its row; ``given`` overrides columns."""
        title = str(given.pop("title", "baseline"))
        stage = given.get("stage", "settled")
        curve = given.pop("curve", CURVE)
        body: dict[str, object] = {"task": task, "why": str(given.get("why", "")), "recipe": {}, "steps": 780}
        ack = epoch + 1 if stage != "received" else None
        cid = self.record("experiment", author, epoch, body, title=title, target=task, round_=ack)
        row: dict[str, object] = dict(
            seq=self.seq, cid=text_of(cid), task=text_of(task), author=node_name(author),
            epoch=epoch, base=None, base2=None,
            depth=0, operator="baseline", why="", recipe=RECIPE_TEXT, recipe_digest=cid.digest.hex(), changed="[]",
            seed="5eed" * 16, metric=2_271_543_210, gain=None, steps=780, flops=400_000_000_000, cpu_ms=19_400,
            params_count=236_544, weights=str(Cid.of(cid, 0x55)), fingerprint="f1" * 32, curve=curve, outcome="kept",
            verdict="unverified", stage="settled", reason="It waits for evidence.", round_ack=ack, round_settled=None,
            settled=0, frontier=0, frontier_why="No verdict yet.", error=None,
        )  # fmt: skip
        row["class"] = hardware_class
        row |= given
        self.insert("experiment", **row)
        self.views.execute(
            "INSERT INTO search(rowid, title, why, changed, author, cid) VALUES(?,?,?,?,?,?)",
            (self.seq, title, row["why"], row["changed"], row["author"], text_of(cid)),
        )
        return cid

    def shard(self, author: bytes, epoch: int, task: Cid, hardware_class: str, **given: object) -> Cid:
        """One absorbed model with its row; ``given`` overrides columns."""
        kind = "refinement" if given.get("base") else "absorption"
        name = str(given.get("name", "a model"))
        cid = self.record(
            kind, author, epoch, {"task": task, "name": name}, title=name, target=task, round_=epoch + 1
        )
        row: dict[str, object] = dict(
            seq=self.seq, cid=text_of(cid), kind=kind, task=text_of(task), author=node_name(author), epoch=epoch,
            name=name, origin="hf:someone/" + name, licence="Apache-2.0", head="classifier", modality="text",
            rule="few-spike/1", steps=8, layers=12, params_count=4_400_000, sparsity_ppm=831_000, cpu_ms=42_000,
            source_bytes=17_600_000, shard_bytes=4_500_000, ops=210_000_000,
            metric=1_234_567, weights=str(Cid.of(cid, 0x55)),
            sources=json.dumps([[file, str(Cid.of(cid, 0x55))] for file in ("config.json", "model.safetensors")]),
            base=None, inputs="[]", state="[]", operator="absorb", why="It answers what the state cannot.",
            outcome="kept", fingerprint="f1" * 32, verdict="confirmed", stage="settled",
            reason="All drawn nodes agree.", round_ack=epoch + 1, round_settled=epoch + 4, settled=1, member=1,
            standing="It makes genre better and nothing worse.", gains="[]",
        )  # fmt: skip
        row["class"] = hardware_class
        self.insert("shard", **(row | given))
        return cid

    def failures(self) -> None:
        """Rows of the tables of failures, from the crashed runs so far."""
        found: dict[str, list[tuple[object, ...]]] = {}
        sql = "SELECT seq, cid, author, class, error, epoch, task, changed FROM experiment WHERE outcome='crashed'"
        for row in self.views.execute(sql):
            found.setdefault(signature(row[4] or ""), []).append(row)
        for name, runs in found.items():
            last, text = runs[-1], normalised(str(runs[-1][4] or ""))
            classes = Counter(run[3] for run in runs)
            fields: dict[str, list[object]] = {}
            for run in runs:
                for field_, _, after in json.loads(str(run[7])):
                    fields.setdefault(field_, []).append(after)
            shown = [[f, len(v), sorted(set(v), key=str)[:4]] for f, v in fields.items()]
            fixes = [self._later(run[0]) if number % 3 == 0 else None for number, run in enumerate(runs)]
            fixed = next((f for f in reversed(fixes) if f), None)
            self.insert(
                "failure", signature=name, text=text, example=last[4], runs=len(runs),
                authors=len({run[2] for run in runs}), classes=json.dumps(classes.most_common()),
                tasks=json.dumps(sorted({run[6] for run in runs})), fields=json.dumps(shown[:8]),
                flops=len(runs) * 400_000_000_000, first_epoch=runs[0][5], last_epoch=last[5], last_seq=last[0],
                last_cid=last[1], fixed_by=fixed, fixed_runs=sum(f is not None for f in fixes),
            )  # fmt: skip
            for run, fix in zip(runs, fixes, strict=True):
                self.insert("failure_run", signature=name, seq=run[0], cid=run[1], fixed_by=fix)
            for word in words(f"{text} {' '.join(fields)} {' '.join(map(str, classes))}"):
                self.insert("failure_word", word=word, signature=name)

    def _later(self, seq: object) -> str | None:
        """A run after this one that did not crash."""
        sql = "SELECT cid FROM experiment WHERE seq > ? AND outcome='kept' LIMIT 1"
        row = self.views.execute(sql, (seq,)).fetchone()
        return None if row is None else str(row[0])


RECIPE_TEXT = json.dumps(BASE_RECIPE)
CURVE = json.dumps([int(6_900_000 * 0.88**i + 3_900_000) for i in range(32)])
