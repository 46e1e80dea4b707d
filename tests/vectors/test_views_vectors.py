"""Every story of ``spec/vectors/verdicts`` folds to what its file expects, and no story is missing."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from spore_borg.records.canonical import encode
from tests.vectors.verdict_stories import FOLDER, STORIES, expected, told


@pytest.mark.parametrize("name", sorted(STORIES))
def test_story_folds_as_its_file_says(name: str, rng: random.Random) -> None:
    records, wanted = told(name)
    rng.shuffle(records)
    assert json.loads(json.dumps(expected(records))) == wanted


def test_stories_and_files_are_the_same() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(STORIES)


def test_stories_tell_every_verdict() -> None:
    seen = {claim["verdict"] for name in STORIES for claim in told(name)[1]["claims"]}
    assert seen >= {"accepted", "refuted", "void", "solo"}


# The formulas of spec/40 and spec/50 once more, written from the text and sharing no code with the views.


def lot(value: bytes, claim: bytes, purpose: bytes, number: int = 0) -> int:
    """spec/40, section 3."""
    seed = b"spore-borg/draw/" + purpose + b"\0" + value + claim + number.to_bytes(4, "big")
    return int(hashlib.sha256(seed).hexdigest(), 16)


@pytest.mark.parametrize("name", sorted(STORIES))
def test_probes_follow_from_the_text(name: str) -> None:
    records, wanted = told(name)
    by_cid = {str(record.cid): record for record in records}
    epochs = {row[0]: row[1] for row in wanted["rounds"]}
    values = {(r.author.hex(), r.epoch): r.body.value for r in records if r.kind == "seal"}
    drawn = [claim for claim in wanted["claims"] if claim["probes"]]
    assert drawn
    for claim in drawn:
        body = by_cid[claim["experiment"]].body
        task = by_cid[str(body.task)].body
        cid = bytes(by_cid[claim["cid"]].cid)
        dealt = sorted(s for probe in claim["probes"].values() for s, _ in probe["segments"])
        whole = dealt == list(range(task.segments))
        for who, probe in claim["probes"].items():
            value = values[who, epochs[claim["round_drawn"]]]
            ranked = sorted(range(task.blocks), key=lambda b: lot(value, cid, b"block", b))
            assert probe["blocks"] == sorted(ranked[: -(-task.blocks // 2)])
            if not whole:
                assert [s for s, _ in probe["segments"]] == [lot(value, cid, b"segment") % task.segments]
            for segment, step in probe["segments"]:
                a, b = segment * body.steps // task.segments, (segment + 1) * body.steps // task.segments
                assert step == 1 + lot(value, cid, b"inner", segment) % max(1, b - a - 1)


@pytest.mark.parametrize("name", sorted(STORIES))
def test_trust_follows_from_the_text(name: str) -> None:
    records, wanted = told(name)
    one, last = 1 << 20, wanted["rounds"][-1][0]
    banned = {row[0] for row in wanted["ledger"] if row[2] in ("fraud", "equivocation")}
    trust = {key: max(0, score - one) for key, score in wanted["scores"].items() if key not in banned}
    roots = [root.hex() for root in next(r for r in records if r.kind == "genesis").body.roots]
    total, rooted = sum(trust.values()), sum(trust[root] for root in roots)
    need = max((total - 3 * rooted) // 2, 5 * one >> (last // 60), one >> 10)
    for root in roots:
        trust[root] += need // len(roots)
    assert {key: amount for key, amount in trust.items() if amount} == wanted["trust"]


@pytest.mark.parametrize("name", sorted(STORIES))
def test_evidence_follows_from_the_text(name: str) -> None:
    """Every revealed piece of evidence that has a finding fits the commit that it names."""
    records, wanted = told(name)
    by_cid = {str(record.cid): record for record in records}
    found = {(claim["cid"], who) for claim in wanted["claims"] for who in claim["findings"]}
    reveals = [
        r for r in records if r.kind == "attest_reveal" and (str(r.body.target), r.author.hex()) in found
    ]
    assert reveals
    for record in reveals:
        body = record.body
        told_numbers = [
            body.target,
            body.params,
            [list(p) for p in body.losses],
            [list(s) for s in body.segments],
            [list(s) for s in body.steps],
        ]
        digest = hashlib.sha256(
            b"spore-borg/evidence\0" + record.author + body.nonce + encode(told_numbers)
        ).digest()
        assert by_cid[str(body.commit)].body.digest == digest
