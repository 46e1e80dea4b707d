from __future__ import annotations

import json

import pytest

from spore_borg.errors import NotFound
from spore_borg.store.tables import Tables
from spore_borg.store.voices import choose, modality_of_text, voices


def _shard(seq, name, head, modality, member=1, gain=0, author="ann"):
    return {
        "seq": seq, "cid": f"b{name}", "kind": "absorption", "task": "t", "class": "CPU", "author": author,
        "epoch": 1, "name": name, "origin": "", "licence": "MIT", "head": head, "modality": modality,
        "rule": "few-spike/1", "steps": 5, "layers": 1, "params_count": 1, "sparsity_ppm": 0, "cpu_ms": 0,
        "source_bytes": 0, "shard_bytes": 0, "ops": 0,
        "metric": 0, "weights": f"w{name}", "sources": "[]", "base": None, "inputs": "[]", "state": "[]",
        "operator": "", "why": "",
        "outcome": "kept", "fingerprint": "", "verdict": "confirmed", "stage": "settled", "reason": "",
        "round_ack": 1, "round_settled": 1, "settled": 1, "member": member, "standing": "",
        "gains": json.dumps([{"probe": "p", "pairs": 9, "gain": gain, "word": "better" if gain > 0 else "worse"}]),
    }  # fmt: skip


def _node(name, influence_ppm):
    return {
        "name": name, "class": "CPU", "fingerprint": "", "device": "", "role": "research", "root": 0, "score": 0,
        "frauds": 0, "trust": 0, "influence_ppm": influence_ppm, "banned": 0, "records": 0, "experiments": 0,
        "attestations": 0, "intents": 0, "lapsed": 0, "last_epoch": 0,
    }  # fmt: skip


@pytest.fixture
def known(tmp_path):
    rows = [
        _shard(1, "mini", "embedder", "text", gain=500_000_000),
        _shard(2, "words", "embedder", "text", gain=-900_000_000),
        _shard(3, "stranger", "embedder", "text", gain=10**12, author="bob"),
        _shard(4, "digits", "classifier", "image", member=2),
        _shard(5, "gone", "causal_lm", "text", member=0),
        _shard(6, "rxn", "masked_lm", "smiles"),
    ]
    tables = Tables(tmp_path / "views.sqlite")
    tables.publish({"shard": rows, "node": [_node("ann", 250_000)]})
    db = Tables.open_readonly(tmp_path / "views.sqlite")
    yield voices(db)
    db.close()


def test_only_members_answer_and_a_stranger_speaks_softly(known):
    assert [voice.name for voice in known] == ["mini", "words", "stranger", "digits", "rxn"]
    weights = {voice.name: voice.weight for voice in choose(known, "embed", "text")}
    assert weights == {"mini": 375_000, "words": 250_000, "stranger": 3}
    assert not next(voice for voice in known if voice.name == "digits").confirmed


def test_a_model_is_chosen_by_name_or_id(known):
    assert [v.name for v in choose(known, "embed", "text", model="words")] == ["words"]
    assert [v.name for v in choose(known, "embed", "text", model="bmin")] == ["mini"]
    assert [v.name for v in choose(known, "fill", "smiles")] == ["rxn"]
    assert [v.name for v in choose(known, "embed", "image")] == ["digits"]


def test_who_cannot_be_asked_is_told_with_what_there_is(known):
    with pytest.raises(NotFound, match="digits"):
        choose(known, "complete", "text")
    with pytest.raises(NotFound, match="borg absorb"):
        choose([], "embed", "text")


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        ("CC(=O)Oc1ccccc1C(=O)O", "smiles"), ("CC(=O)[MASK]>>CCO", "smiles"), ("c1ccccc1", "smiles"),
        ("Hello", "text"), ("the acid (weak)", "text"), ("The [MASK] sat.", "text"), ("", "text"),
    ],
)  # fmt: skip
def test_molecules_are_told_from_words(text, modality):
    assert modality_of_text(text) == modality
