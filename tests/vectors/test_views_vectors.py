"""Every story of ``spec/vectors/verdicts`` folds to what its file expects, and no story is missing."""

from __future__ import annotations

import hashlib
import json
import random
from fractions import Fraction
from typing import Any

import pytest

from spore_borg.records.canonical import encode
from spore_borg.records.envelope import Record
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


def by_units(value: bytes, claim: bytes) -> list[int]:
    """spec/51, section 3."""
    blocks = []
    for group in range(8):
        ranked = sorted(range(16), key=lambda i: lot(value, claim, b"block", 16 * group + i))
        for i in ranked[:8]:
            blocks += [16 + 32 * (group - 1) + i, 32 + 32 * (group - 1) + i] if group else [i]
    return sorted(blocks)


def fingerprints(records: list[Record]) -> dict[bytes, bytes]:
    """Author → the fingerprint of its last join."""
    joins = sorted((record for record in records if record.kind == "join"), key=lambda record: record.seq)
    return {record.author: record.body.fingerprint for record in joins}


@pytest.mark.parametrize("name", sorted(STORIES))
def test_probes_follow_from_the_text(name: str) -> None:
    records, wanted = told(name)
    by_cid = {str(record.cid): record for record in records}
    epochs = {row[0]: row[1] for row in wanted["rounds"]}
    values = {(r.author.hex(), r.epoch): r.body.value for r in records if r.kind == "seal"}
    drawn, prints = [claim for claim in wanted["claims"] if claim["probes"]], fingerprints(records)
    assert drawn
    for claim in drawn:
        body = by_cid[claim["experiment"]].body
        task = by_cid[str(body.task)].body
        cid = bytes(by_cid[claim["cid"]].cid)
        dealt = sorted(s for probe in claim["probes"].values() for s, _ in probe["segments"])
        parts = list(body.groups) if body.KIND != "experiment" else list(range(task.segments))
        whole = dealt == parts
        for who, probe in claim["probes"].items():
            value = values[who, epochs[claim["round_drawn"]]]
            if absorbing := task.spec.get("kind") == "absorption":
                assert probe["blocks"] == by_units(value, cid)
            else:
                ranked = sorted(range(task.blocks), key=lambda b: lot(value, cid, b"block", b))
                assert probe["blocks"] == sorted(ranked[: -(-task.blocks // 2)])
            steps = 64 * task.segments if absorbing else body.steps
            if prints[bytes.fromhex(who)] != body.fingerprint:
                assert not probe["segments"]
            elif not whole:
                assert [s for s, _ in probe["segments"]] == [parts[lot(value, cid, b"segment") % len(parts)]]
            for segment, step in probe["segments"]:
                a, b = segment * steps // task.segments, (segment + 1) * steps // task.segments
                assert step == 1 + lot(value, cid, b"inner", segment) % max(1, b - a - 1)


@pytest.mark.parametrize("name", sorted(STORIES))
def test_seeds_follow_from_the_text(name: str) -> None:
    records, wanted = told(name)
    by_cid = {str(record.cid): record for record in records}
    for cid, witnesses in wanted["seeds"]:
        experiment, seals = by_cid[cid], [by_cid[seal] for seal in witnesses]
        intent = by_cid[str(experiment.body.intent)]
        assert intent.author == experiment.author not in {seal.author for seal in seals}
        assert [seal.author for seal in seals] == sorted({seal.author for seal in seals})
        values = b"".join(seal.body.value for seal in seals)
        said = hashlib.sha256(b"spore-borg/seed\0" + intent.cid + values).digest()[:8]
        assert said == experiment.body.seed
    claimed = {
        claim["experiment"] for claim in wanted["claims"] if by_cid[claim["experiment"]].kind == "experiment"
    }
    assert claimed == {cid for cid, _ in wanted["seeds"]}


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


def passing(records: list[Record], claim: dict[str, Any]) -> dict[int, int]:
    """spec/51, section 5: covered block → its loss; twins' numbers first."""
    prints = fingerprints(records)
    own = next(r.body.fingerprint for r in records if str(r.cid) == claim["experiment"])
    said: dict[int, dict[bool, list[int]]] = {}
    for record in records:
        who = record.author.hex()
        answers = record.kind == "attest_reveal" and str(record.body.target) == claim["cid"]
        if answers and claim["findings"].get(who) == "pass" and who in claim["probes"]:
            for block, loss in record.body.losses:
                sides = said.setdefault(block, {True: [], False: []})
                sides[prints[record.author] == own].append(loss)
    chosen = {block: sides[True] or sides[False] for block, sides in said.items()}
    return {block: sum(values) // len(values) for block, values in chosen.items()}


def compared(records: list[Record], claim: dict[str, Any]) -> dict[int, int]:
    """spec/51, section 5: a base's fidelity block → its loss; all that was opened, if a twin's evidence passed."""
    prints = fingerprints(records)
    own = next(r.body.fingerprint for r in records if str(r.cid) == claim["experiment"])
    passed = {who for who, word in claim["findings"].items() if word == "pass" and who in claim["probes"]}
    (opened,) = [r.body.losses for r in records if r.kind == "open" and str(r.body.target) == claim["cid"]]
    twins = [key for key in prints if key.hex() in passed and prints[key] == own]
    return {**(dict(enumerate(opened[:16])) if twins else {}), **passing(records, claim)}


def weigh_again(before: list[int], after: list[int]) -> str:
    """spec/51, section 5, in fractions."""
    d = [b - a for b, a in zip(before, after, strict=True)]
    mean = Fraction(sum(d), len(d))
    variance = sum((x - mean) ** 2 for x in d) / (len(d) - 1)
    if mean * mean * len(d) <= 4 * variance or (100 if mean > 0 else 1000) * abs(sum(d)) < sum(before):
        return "even"
    return "better" if mean > 0 else "worse"


def test_the_state_follows_from_the_text() -> None:
    """spec/51, sections 5 and 6: the test over covered pairs, members and their digest."""
    words = set()
    for name in ("absorbed", "absorbed_far"):
        records, wanted = told(name)
        by_cid = {str(record.cid): record for record in records}
        claims = {claim["experiment"]: claim for claim in wanted["claims"]}
        for cid, word, weighed, _ in wanted["state"]["standings"]:
            words.add(word)
            seen = passing(records, claims[cid])
            for probe, pairs, gain, said in weighed:
                if probe < 0:
                    base = compared(records, claims[str(by_cid[cid].body.base)])
                    both = [i for i in range(16) if i in seen and i in base]
                    before, after = [base[i] for i in both], [seen[i] for i in both]
                else:
                    at = 16 + 32 * probe
                    both = [i for i in range(16) if {at + i, at + 16 + i} <= seen.keys()]
                    before, after = [seen[at + i] for i in both], [seen[at + 16 + i] for i in both]
                assert (pairs, gain) == (len(both), sum(before) - sum(after))
                assert said == weigh_again(before, after)
        members = sorted(bytes(by_cid[cid].cid) for cid in wanted["state"]["members"])
        digest = hashlib.sha256(b"spore-borg/bank\0" + b"".join(members)).hexdigest()
        assert wanted["state"]["digest"] == (digest if members else None)
    assert words == {"joined", "refused", "stale", "replaced", "removed"}
    assert len(told("absorbed")[1]["no_claims"]) == 1


def test_other_hardware_convicts_nobody_who_is_honest() -> None:
    """spec/40, section 5 and spec/51, section 4: two of three claims of the story are lies."""
    verdicts = [claim["verdict"] for claim in told("absorbed_far")[1]["claims"]]
    assert verdicts == ["accepted", "refuted", "refuted"]
