"""Merges on their way through verification, the gate and the state, in a world of toy conversions."""

from __future__ import annotations

import json
import random

import pytest

from spore_borg.policies import absorber
from spore_borg.records import bodies
from spore_borg.records.bodies import INCOME_MAX, ONE
from spore_borg.records.cid import Cid
from spore_borg.views import bank, gate, lineage, verdicts
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables
from tests.merge_world import ALONE, MergeWorld, lineage_of


def retract(world: MergeWorld, name: str, target: Cid) -> View:
    world.write(world.nodes[name], bodies.Retract(target=target, why="never mind"))
    return world.run(2)


def test_a_merge_takes_its_inputs_place_and_gives_it_back() -> None:
    world, inputs = lineage_of("one", "two")
    view, other = world.absorbed("ann", "of another kind", gains=ALONE)
    view, claim = world.merged("ben", inputs)
    cid = claim.target.cid
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    assert view.bank.members() == tuple(sorted((cid, other.target.cid)))
    for one in inputs:
        standing = view.bank.standings[one]
        assert (standing.word, standing.by) == (bank.REPLACED, cid)
        assert standing.why == f"The merge {str(cid)[-8:]} has taken its place."
    assert view.bank_solo.members() == view.bank.members()
    assert retract(world, "ben", cid).bank.members() == tuple(sorted((*inputs, other.target.cid)))


def test_the_inputs_stay_if_the_merge_loses_to_them() -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ben", inputs, gains={0: 60, 1: -60})
    assert claim.verdict == verdicts.ACCEPTED and claim.body.outcome == "discarded"
    assert view.bank.members() == tuple(sorted(inputs))
    assert "worse in sts" in view.bank.standings[claim.target.cid].why


def test_a_merge_that_is_as_good_makes_the_state_smaller() -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ben", inputs, gains={0: 1})
    assert claim.verdict == verdicts.ACCEPTED and claim.body.outcome == "kept", claim.reason
    standing = view.bank.standings[claim.target.cid]
    assert view.bank.members() == (claim.target.cid,)
    assert standing.why == "The state gets smaller by 1 model and nowhere worse by a hundredth."
    again, other = world.merged("ben", inputs, gains={0: 1}, rule="mean/1")
    assert again.bank.members() == (claim.target.cid,), "one for one is not smaller, and no better"
    assert "no probe beyond the noise" in again.bank.standings[other.target.cid].why


def test_a_merge_whose_harm_hides_in_noise_leaves_the_inputs() -> None:
    world, inputs = lineage_of("one", "two", seed=6)
    view, claim = world.merged("ben", inputs, gains={0: 0}, noise=20)
    assert claim.verdict == verdicts.ACCEPTED and claim.body.outcome == "discarded", claim.reason
    assert view.bank.members() == tuple(sorted(inputs))
    assert "the inputs stay" in view.bank.standings[claim.target.cid].why


def test_a_merge_of_one_more_takes_the_place_of_the_merge_before() -> None:
    world, inputs = lineage_of("one", "two", "three")
    _, small = world.merged("ann", inputs[:2])
    view, large = world.merged("ben", inputs)
    first, last = small.target.cid, large.target.cid
    assert view.bank.members() == (last,)
    assert view.bank.standings[first].by == last
    assert retract(world, "ben", last).bank.members() == tuple(sorted((first, inputs[2])))
    assert retract(world, "ann", first).bank.members() == tuple(sorted(inputs))


def test_what_a_removed_merge_had_replaced_comes_back_with_the_last_of_them() -> None:
    world, inputs = lineage_of("one", "two", "three")
    _, small = world.merged("ann", inputs[:2])
    _, large = world.merged("ben", inputs)
    assert retract(world, "ann", small.target.cid).bank.members() == (large.target.cid,)
    assert retract(world, "ben", large.target.cid).bank.members() == tuple(sorted(inputs))


def test_a_retracted_input_takes_its_share_out_of_the_state() -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ben", inputs)
    view = retract(world, "ann", inputs[0])
    assert view.bank.members() == (inputs[1],)
    assert "inputs was removed" in view.bank.standings[claim.target.cid].why


def test_weights_are_what_the_inputs_have_earned() -> None:
    world, inputs = lineage_of("one", "two")
    view = world.view()
    earned = lineage.incomes(view, sorted(inputs))
    assert all(1 < weight <= INCOME_MAX for weight in earned)
    lie = world.merge("ben", inputs, incomes=tuple(weight + 1 for weight in earned))
    view = world.run(3)
    assert lie.cid not in view.claims
    assert view.notes[lie.cid] == "Its weights are not what its inputs have earned."


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sources": (("00/model.bin", Cid.of(b"a")), ("01/model.bin", Cid.of(b"b")))}, "sources"),
        ({"head": "classifier"}, "Its head"),
        ({"steps": 4}, "Its steps"),
    ],
)
def test_a_merge_says_what_its_inputs_say(change: dict[str, object], why: str) -> None:
    world, inputs = lineage_of("one", "two")
    record = world.merge("ben", inputs, **change)
    assert why in world.run(3).notes[record.cid]


def test_models_of_other_architectures_are_no_lineage() -> None:
    world, inputs = lineage_of("one")
    view, claim = world.absorbed("ann", "wide", params_count=20)
    other = claim.target.cid
    record = world.merge("ben", [*inputs, other])
    view = world.run(3)
    assert record.cid not in view.claims
    assert "no lineage: each has another number of weights" in view.notes[record.cid]
    assert "no accepted absorption" in lineage.lineage_fault(view, [inputs[0], record.cid], None)
    assert "2 to 16" in lineage.lineage_fault(view, inputs, None)


def test_a_merge_is_merged_again_by_its_inputs_and_refined_by_nobody() -> None:
    world, inputs = lineage_of("one", "two", "three")
    view, claim = world.merged("ann", inputs[:2])
    assert "is a merge itself" in lineage.lineage_fault(view, [claim.target.cid, inputs[2]], None)
    me = world.nodes["ben"]
    assert absorber.to_refine(view, me.key.public, me.fingerprint) == [inputs[2]]


def test_one_merge_is_claimed_once_and_another_rule_is_another() -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ann", inputs)
    again, other = world.merge("ben", inputs), world.merge("ben", inputs, rule="mean/1")
    view = world.run(8)
    assert f"Already merged by {claim.target.cid}" in view.notes[again.cid]
    assert view.bank.members() == (other.cid,), "the same inputs by a rule that is better"


def test_a_merge_of_what_is_not_in_the_state_stays_out() -> None:
    world, inputs = lineage_of("one", "two")
    view, idle = world.absorbed("ann", "idle", gains={0: 0, 1: 0})
    view, claim = world.merged("ben", [*inputs, idle.target.cid])
    standing = view.bank.standings[claim.target.cid]
    assert (standing.word, standing.why) == (bank.REFUSED, "An input is not in the state.")
    assert absorber.stale(view, claim.author) == []


def test_a_merge_that_was_measured_too_early_is_measured_again() -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ben", inputs, state=())
    assert view.bank.standings[claim.target.cid].word == bank.STALE
    assert absorber.stale(view, claim.author) == [claim.target.cid]
    view, again = world.merged("ben", inputs)
    assert view.bank.members() == (again.target.cid,)


def test_a_merge_with_one_coordinate_altered_is_refuted_and_ends_its_key() -> None:
    world, inputs = lineage_of("one", "two", nodes=("ann", "ben", "cat"))
    world.merge("cat", inputs, lie="coordinate")
    view = world.run(12)
    (claim,) = [claim for claim in view.claims.values() if claim.body.name == "merged"]
    assert claim.verdict == verdicts.REFUTED, claim.reason
    assert "segment" in claim.reason and view.ledger.accounts[claim.author].banned
    assert view.bank.members() == tuple(sorted(inputs))


def test_a_base_is_an_accepted_one_of_the_lineage() -> None:
    world, (base, *inputs) = lineage_of("base", "one", "two")
    view, claim = world.merged("ben", inputs, base=base)
    assert view.bank.members() == tuple(sorted((base, claim.target.cid)))
    names = [name for name, _ in claim.body.sources]
    assert names == ["00/model.bin", "01/model.bin", "base/model.bin"]
    strange = world.merge("ann", inputs, base=base, rule="mean/1", sources=claim.body.sources[:2])
    assert "sources" in world.run(3).notes[strange.cid]


def test_any_order_and_any_stop_give_the_same_state(rng: random.Random) -> None:
    world, inputs = lineage_of("one", "two", "three", seed=4)
    world.merged("ann", inputs[:2])
    world.merged("ben", inputs)
    grown = retract(world, "ben", inputs[1])
    shuffled = [*world.records, *world.records[::3]]
    rng.shuffle(shuffled)
    views = (grown, View(world.records), View(shuffled))
    assert len({(v.bank.digest(), v.digest_of(v.round)) for v in views}) == 1
    seq = {record.cid: number for number, record in enumerate(world.records)}
    rows = [tables(v, seq, b"m" * 32) for v in views]
    for name in ("shard", "ledger", "meta", "queue"):
        said = [sorted(map(repr, table[name])) for table in rows]
        assert said[0] == said[1] == said[2], name


def test_rows_and_titles_name_a_merge() -> None:
    world, inputs = lineage_of("one", "two")
    view, claim = world.merged("ben", inputs)
    seq = {record.cid: number for number, record in enumerate(world.records)}
    value = tables(view, seq, b"m" * 32)
    (row,) = [row for row in value["shard"] if row["kind"] == "merge"]
    assert json.loads(row["inputs"]) == [
        [str(cid), weight] for cid, weight in zip(claim.body.inputs, claim.body.incomes, strict=True)
    ]
    assert (row["member"], row["base"]) == (1, None)
    assert {row["inputs"] for row in value["shard"] if row["kind"] == "absorption"} == {"[]"}
    assert any(item["title"].startswith("Merges merged") for item in value["record"])


def test_income_is_trust_times_verified_gain_in_whole_numbers(rng: random.Random) -> None:
    assert lineage.significance([5, 5, 5, 5]) == lineage.T_MAX
    assert lineage.significance([5, 5, 5]) == lineage.significance([-5] * 8) == lineage.significance([]) == 0
    for _ in range(50):
        found = [rng.randint(-100, 130) for _ in range(16)]
        mean = sum(found) / 16
        error = (sum((x - mean) ** 2 for x in found) / 15 / 16) ** 0.5
        expected = min(64, max(0, int(32 * mean / error)))
        assert abs(lineage.significance(found) - expected) <= 1
    losses = [0] * gate.BLOCKS
    for index in range(gate.UNITS):
        for group, gain in ((1, 9), (2, 0)):
            before, after = gate.unit_blocks(group, index)
            losses[before], losses[after] = 100, 100 - gain
    every = range(gate.BLOCKS)
    assert lineage.income(4 * ONE, losses, every) == 128 * 32, "one probe of two gained"
    assert lineage.income(400 * ONE, losses, every) == 128 * 32
    assert lineage.income(ONE, losses, every) == 32 * 32
    assert lineage.income(0, losses, every) == lineage.income(ONE, losses, ()) == 1
