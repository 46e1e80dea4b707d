"""Refinements at the gate: what is compared with their base, and what happens to it."""

from __future__ import annotations

import pytest

from spore_borg.policies import absorber
from spore_borg.records import bodies
from spore_borg.views import gate, verdicts
from tests.unit.test_absorption_claims import mesh
from tests.world import h


def test_a_better_refinement_takes_its_bases_place_and_gives_it_back() -> None:
    world = mesh("ann", "ben")
    _, base = world.absorbed("ann", "minilm")
    me = world.nodes["ben"]
    assert absorber.to_refine(world.view(), me.key.public, me.fingerprint) == [base.target.cid]
    assert absorber.to_refine(world.view(), me.key.public, h("another")) == []
    view, claim = world.absorbed(
        "ben", "minilm", base=base.target.cid, infidelity=3_000_000, gains={0: 0, 1: 0}, steps=5
    )
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    assert view.bank.members() == (claim.target.cid,)
    assert view.bank.standings[base.target.cid].by == claim.target.cid
    assert absorber.to_refine(view, me.key.public, me.fingerprint) == [claim.target.cid]
    world.write(me, bodies.Retract(target=claim.target.cid, why="never mind"))
    assert world.run(2).bank.members() == (base.target.cid,)


def test_a_refinement_that_is_no_better_stays_out() -> None:
    world = mesh("ann", "ben")
    _, base = world.absorbed("ann", "minilm")
    view, claim = world.absorbed("ben", "minilm", base=base.target.cid, gains={0: 0, 1: 0})
    assert view.bank.members() == (base.target.cid,)
    why = view.bank.standings[claim.target.cid].why
    assert "no probe" in why or "worse in fidelity" in why


@pytest.mark.parametrize("twin", [True, False])
def test_a_refinement_is_compared_in_all_that_was_recomputed_of_it_if_a_twin_tested_its_base(
    twin: bool,
) -> None:
    world = mesh("ann")
    if not twin:
        world.nodes["ann"].fingerprint = h("another")
        world.join(world.nodes["ann"], None)
        world.run(2)
    _, base = world.absorbed("ann", "minilm", 12)
    view, claim = world.absorbed("ann", "minilm", 12, base=base.target.cid, infidelity=1_000_000)
    assert (base.verdict, claim.verdict) == (verdicts.ACCEPTED, verdicts.ACCEPTED), claim.reason

    def recomputed(one: verdicts.Claim) -> set[int]:
        return {block for probe in one.probes.values() for block in probe.blocks if block < gate.UNITS}

    assert len(recomputed(base)) == len(recomputed(claim)) == 8, "one verifier draws half of the blocks"
    both = recomputed(base) & recomputed(claim)
    (fidelity,) = [one for one in view.bank.standings[claim.target.cid].weighed if one.name == gate.FIDELITY]
    assert fidelity.pairs == (8 if twin else len(both))
    assert len(both) < 8


def test_a_refinement_needs_an_accepted_base_of_the_same_source() -> None:
    world = mesh("ann", "ben")
    _, base = world.absorbed("ann", "minilm")
    strange = world.absorb("ben", "another", base=base.target.cid)
    nowhere = world.absorb("ben", "minilm", base=strange.cid)
    view = world.run(3)
    assert "another source" in view.notes[strange.cid]
    assert "no accepted absorption" in view.notes[nowhere.cid]
