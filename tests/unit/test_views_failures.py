"""Signatures of failures: pure, stable, without what differs from run to run; and what fixed them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spore_borg.policies import prover
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views import failures
from spore_borg.views.failures import SIGNATURE_CHARS, normalised, signature, words
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables
from tests.world import World

SAME = (
    ("loss is not finite at step 212", "loss is not finite at step 7"),
    ("Tried to allocate 2.00 GiB (GPU 0; 23.69 GiB total)", "Tried to allocate 512 GiB (GPU 3; 8 GiB total)"),
    (
        "shape '[4, 64, 128]' is invalid for input of size 1024",
        "shape '[8, 2]' is invalid for input of size 3",
    ),
    ('File "/opt/x/lib/torch/nn.py", line 12', 'File "/usr/share/elsewhere/nn.py", line 99999'),
    ("object at 0x7f00deadbeef", "object at 0x55aa"),
    ("lr 1e-3 is too high", "lr 0.5 is too high"),
    ("Loss  is\nNOT finite", "loss is not finite"),
    (
        "no blob bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        "no blob " + "bafkrei" + "a" * 52,
    ),
)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_differs_from_run_to_run_makes_no_other_signature(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    assert signature(one) == signature(other)


def test_what_failed_makes_another_signature() -> None:
    texts = ["loss is not finite", "out of memory", "adamw needs beta2", "muon needs beta2", ""]
    assert len({signature(text) for text in texts}) == len(texts)


@given(st.text(max_size=500))
def test_any_text_has_a_signature_that_is_its_own(text: str) -> None:
    found = normalised(text)
    assert re.fullmatch(r"[0-9a-f]{12}", signature(text))
    assert len(signature(text)) == SIGNATURE_CHARS
    assert 0 < len(found) <= failures.TEXT_CHARS
    assert found.isprintable()
    assert len(words(found)) <= failures.WORDS_MAX


def crash(
    world: World, name: str, recipe: dict[str, int | bool | str], base: Cid | None, error: str
) -> Record:
    """A run that ended with an error."""
    node = world.nodes[name]
    facts = prover.Facts(
        recipe, "test", "because", (base,) if base else (), Cid.of(b"intent"), bytes(8), "CPU_TEST", node.fingerprint,
        1, 1, 7, 1, (),
    )  # fmt: skip
    return world.write(node, prover.crash_body(world.task, facts, error))


def run(world: World, name: str, recipe: dict[str, int | bool | str], base: Cid | None) -> Record:
    """A run with this recipe that did not crash."""
    return world.experiment(world.nodes[name], 10**9, base, recipe=recipe)


def test_a_failure_knows_what_its_runs_share_and_what_fixed_it() -> None:
    world = World(4)
    world.populate("a", "b")
    base = run(world, "a", {"x": 0, "lr": 3, "width": 64}, None)
    other = run(world, "a", {"x": 1, "lr": 3, "width": 64}, None)
    world.tick()
    one = crash(world, "a", {"x": 0, "lr": 9, "width": 64}, base.cid, "loss is not finite at step 3")
    two = crash(world, "b", {"x": 1, "lr": 12, "width": 64}, other.cid, "loss is not finite at step 88")
    crash(world, "b", {"x": 1, "lr": 3, "width": 1}, other.cid, "width must be a multiple of 8, not 1")
    world.tick()
    run(world, "b", {"x": 0, "lr": 3, "width": 32}, base.cid)  # lr as in the base: fixes nothing
    fix = run(world, "b", {"x": 0, "lr": 5, "width": 64}, base.cid)
    world.run(3)
    view = world.view()
    found = failures.failures(view)
    assert [len(f.runs) for f in found] == [2, 1]
    assert [r.cid for r in found[0].runs] == sorted((one.cid, two.cid))  # of one epoch
    assert found[0].fixes == {one.cid: fix.cid}
    assert failures.common_fields(view, found[0])[0] == ["lr", 2, [9, 12]]
    assert failures.common_fields(view, found[1])[0] == ["width", 1, [1]]
    seq = {record.cid: number for number, record in enumerate(view.dag.records, 1)}
    made = tables(view, seq, b"k" * 32)
    head = made["failure"][0]
    assert head["runs"] == 2
    assert head["authors"] == 2
    assert head["fixed_by"] == str(fix.cid)
    assert head["flops"] == 14
    assert json.loads(head["classes"]) == [["CPU_TEST", 2]]
    assert {row["cid"] for row in made["failure_run"]} == {str(r.cid) for f in found for r in f.runs}
    assert {"word": "finite", "signature": found[0].signature} in made["failure_word"]
    assert {"word": "lr", "signature": found[0].signature} in made["failure_word"]


def test_without_crashes_there_is_nothing() -> None:
    assert failures.tables(View(()), {}) == {"failure": [], "failure_run": [], "failure_word": []}
