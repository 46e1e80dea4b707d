"""The vectors of spec/vectors/records/: read as another implementation would read them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from spore_borg.limits import FUTURE_EPOCHS_MAX
from spore_borg.records import admit, bodies, canonical, envelope, keys, merkle, onion
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import REASONS, Missing, Refused

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "spec" / "vectors" / "records"


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def value_of(plain: Any) -> Any:
    """Back from the JSON form that spec/README.md describes."""
    if isinstance(plain, list):
        return [value_of(item) for item in plain]
    if isinstance(plain, dict):
        if plain.keys() == {"/"}:
            return Cid.parse(plain["/"])
        if plain.keys() == {"hex"}:
            return bytes.fromhex(plain["hex"])
        if plain.keys() == {"int"}:
            return int(plain["int"])
        return {name: value_of(item) for name, item in plain.items()}
    return plain


def named(cases: list[Any]) -> list[Any]:
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names), "every vector has a name of its own"
    return [pytest.param(case, id=case["name"]) for case in cases]


def raw_of(case: Any) -> bytes:
    return bytes.fromhex(case["hex"]) if "hex" in case else bytes.fromhex(case["fill"]) * case["count"]


@pytest.mark.parametrize("case", named(load("canonical.json")["valid"]))
def test_a_value_and_its_bytes(case: Any) -> None:
    raw, value = raw_of(case), value_of(case["value"])
    assert canonical.encode(value) == raw
    assert canonical.decode(raw) == value


@pytest.mark.parametrize("case", named(load("canonical.json")["invalid"]))
def test_bytes_that_are_no_value(case: Any) -> None:
    with pytest.raises(Refused) as caught:
        canonical.decode(raw_of(case))
    assert caught.value.code == case["code"]


@pytest.mark.parametrize("case", named(load("valid.json")))
def test_valid_records(case: Any) -> None:
    raw = raw_of(case)
    record = envelope.parse(raw)
    assert str(record.cid) == case["cid"]
    fields = value_of(case["decoded"])
    assert canonical.encode(fields) == raw
    key = keys.SigningKey(bytes.fromhex(case["seed"]))
    again = envelope.sign(
        key, record.body, mesh=record.mesh, seq=record.seq, prev=record.prev, epoch=record.epoch,
        parents=record.parents,
    )  # fmt: skip
    assert again.raw == raw


def test_valid_records_show_every_kind() -> None:
    assert {case["decoded"]["kind"] for case in load("valid.json")} == set(bodies.KINDS)


@pytest.mark.parametrize("case", named(load("invalid.json")))
def test_invalid_records(case: Any) -> None:
    with pytest.raises(Refused) as caught:
        envelope.parse(raw_of(case))
    assert caught.value.code == case["code"]


@pytest.mark.parametrize("case", named(load("context.json")["cases"]))
def test_records_in_context(case: Any) -> None:
    held = [envelope.parse(bytes.fromhex(raw)) for raw in case["held"]]
    here = {record.cid: admit.Stub(record.author, record.seq, record.epoch) for record in held}
    record = envelope.parse(bytes.fromhex(case["record"]))
    code, missing = None, []
    try:
        admit.check_context(record, Cid.parse(case["mesh"]), here.get, case["epoch_now"])
    except Missing as error:
        code, missing = error.code, sorted(str(Cid(cid)) for cid in error.cids)
    except Refused as error:
        code = error.code
    assert (code, missing) == (case["code"], case["missing"])


def test_the_context_vectors_are_made_for_the_limit_of_today() -> None:
    assert load("context.json")["future_epochs_max"] == FUTURE_EPOCHS_MAX


def test_every_reason_code_has_a_vector() -> None:
    shown = {case["code"] for case in load("invalid.json")} | {
        case["code"] for case in load("canonical.json")["invalid"]
    }
    shown |= {case["code"] for case in load("context.json")["cases"]} - {None}
    assert shown == set(REASONS)


@pytest.mark.parametrize("case", named(load("signatures.json")))
def test_signatures(case: Any) -> None:
    public, message, signature = (bytes.fromhex(case[name]) for name in ("public", "message", "signature"))
    assert keys.usable(public) == case["key_usable"]
    assert (keys.usable(public) and keys.verify(public, message, signature)) == case["valid"]


def test_commitments() -> None:
    case = load("commitments.json")
    secret = bytes.fromhex(case["secret"])
    for tree in case["trees"]:
        losses, count = tree["losses"], len(tree["losses"])
        root = merkle.SumNode(bytes.fromhex(tree["loss_root"]), tree["loss_sum"])
        assert merkle.loss_root(secret, losses) == root
        proof = [
            merkle.SumNode(bytes.fromhex(item["digest"]), item["total"]) for item in tree["proof_of_last"]
        ]
        leaf = merkle.loss_leaf(secret, count - 1, losses[-1])
        assert merkle.check_proof(root, leaf, count - 1, count, proof)
        digests = [bytes.fromhex(digest) for digest in tree["digests"]]
        assert merkle.state_root(secret, digests).hex() == tree["state_root"]
    layers = onion.Onion(secret, case["onion"]["length"])
    anchor = bytes.fromhex(case["onion"]["anchor"])
    assert layers.anchor == anchor
    for item in case["onion"]["values"]:
        assert layers.value(item["index"]).hex() == item["value"]
        assert onion.check(anchor, bytes.fromhex(item["value"]), item["index"])
    state = case["state_digest"]
    assert (
        merkle.state_digest(bytes.fromhex(state["params"]), bytes.fromhex(state["tail"])).hex()
        == state["digest"]
    )


def test_the_files_are_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    import gen_vectors

    assert gen_vectors.main(["--check"]) == 0
