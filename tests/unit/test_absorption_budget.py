"""What absorptions may cost those who verify them: limits, capacities, layer groups, and offering again."""

from __future__ import annotations

import dataclasses

import pytest

from spore_borg.limits import REMEASURES_MAX
from spore_borg.policies.verifier import duties
from spore_borg.records import bodies
from spore_borg.views import bank, budget, evidence, terms, verdicts
from spore_borg.views.reduce import View
from tests.absorb_world import AbsorbWorld
from tests.world import SimNode

LARGE = 600_000_000  # bytes: above the free size, below what nodes here take on by default
HUGE = 2_000_000_000  # … above that as well, below the hard limit


def mesh(*names: str, seed: int = 1, **capacity: int) -> AbsorbWorld:
    """A world with a task; ``capacity``: bytes that a node takes on, by name."""
    world = AbsorbWorld(seed)
    world.populate(*names)
    for name, size in capacity.items():
        node = world.nodes[name]
        node.verify_bytes = size
        world.join(node, None)
    world.absorb_task()
    world.run(2)
    return world


def no_shows(view: View) -> list[bytes]:
    return [entry.node for entry in view.ledger.entries if entry.rule == "no-show"]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("source_bytes", budget.BYTES_MAX + 1, "Too large for this mesh: 4001 MB"),
        ("ops", budget.OPS_MAX + 1, "Too slow for this mesh: 16001 million"),
        ("groups", (0, 8), "more layer groups"),
    ],
)
def test_what_is_above_the_meshs_limits_is_no_claim(
    field: str, value: int | tuple[int, ...], why: str
) -> None:
    world = mesh("ann", "ben")
    record = world.absorb("ann", "giant")
    node = world.nodes["ann"]
    body = dataclasses.replace(record.body, name="giant", sources=world.absorb("ann", "other").body.sources)
    asked = world.write(node, dataclasses.replace(body, **{field: value}))
    view = world.run(3)
    assert asked.cid not in view.claims
    assert why in view.notes[asked.cid]


def test_a_task_sets_the_limits_of_its_mesh() -> None:
    given = budget.limits({"bytes_max": 5, "ops_free": 0, "ops_max": True, "bytes_free": "1"})
    assert given == budget.Limits(budget.BYTES_FREE, 5, 0, budget.OPS_MAX)
    assert budget.too_large(given, 5, budget.OPS_MAX) == ""
    assert "at most 1 MB are taken" in budget.too_large(given, 6, 0)


def test_who_has_said_that_it_takes_on_less_is_not_drawn_and_loses_nothing() -> None:
    world = mesh("ann", "ben", "cat", "dot", dot=0)
    world.nodes["dot"].kind = "idle"  # it would be a no-show if it were drawn
    view, claim = world.absorbed("ann", "large", source_bytes=LARGE, epochs=10)
    dot = world.nodes["dot"].key.public
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    assert dot not in claim.probes and dot not in claim.shadows and dot not in claim.candidates
    assert dot not in no_shows(view)
    assert view.bank.members() == (claim.target.cid,)


def test_up_to_the_free_size_everybody_verifies_whatever_it_says() -> None:
    world = mesh("ann", "ben", "cat", ben=0)
    view, claim = world.absorbed("ann", "small")
    assert world.nodes["ben"].key.public in claim.probes
    assert claim.verdict == verdicts.ACCEPTED and not no_shows(view)


def test_a_jury_asks_only_those_who_take_the_model_on() -> None:
    world = mesh("ann", "ben", "cat", "dot", "lea", dot=0)
    world.nodes["lea"].kind, world.nodes["dot"].kind = "lazy", "idle"
    record, dot = world.absorb("ann", "large", source_bytes=LARGE), world.nodes["dot"].key.public
    for _ in range(12):
        view = world.tick()
        assert not [duty for duty in duties(view, dot) if duty.experiment == record.cid]
    claim = view.claims[record.cid]
    assert claim.named is not None, "a made-up number is disputed"
    assert claim.verdict == verdicts.ACCEPTED, "it was not waited for what dot says"


def test_a_claim_that_too_few_take_on_waits_and_says_why_until_somebody_can() -> None:
    world = mesh("ann", "ben")
    record = world.absorb("ann", "huge", source_bytes=HUGE)
    view = world.run(4)
    claim = view.claims[record.cid]
    assert claim.stage == "waiting" and not claim.probes
    assert "Too large for the nodes that are here" in claim.reason and "2001 MB" in claim.reason
    view = world.run(verdicts.ROUNDS_TO_DRAW)
    claim = view.claims[record.cid]
    assert view.claims[record.cid].verdict == verdicts.VOID and "verify_bytes_max" in claim.reason
    trust = dict(view.ledger.trust)
    view = world.run(6)
    assert view.claims[record.cid].announced == 0, "nobody announces it while nobody can"
    assert not no_shows(view) and set(view.ledger.trust) == set(trust)
    for name in ("ben", "root"):
        world.nodes[name].verify_bytes = HUGE + 1_000
        world.join(world.nodes[name], None)
    view = world.run(14)
    assert view.claims[record.cid].verdict == verdicts.ACCEPTED, view.claims[record.cid].reason


def test_a_size_cannot_choose_the_judges() -> None:
    """An accomplice alone takes on so much: with less than half of the others' trust it verifies nothing."""
    world = mesh("ann", "ben", "cat", "mal", mal=HUGE + 1_000)
    _, claim = world.absorbed("ann", "huge", source_bytes=HUGE, epochs=6)
    assert claim.candidates == (world.nodes["mal"].key.public,)
    assert claim.stage == "waiting" and not claim.probes
    view = world.run(verdicts.ROUNDS_TO_DRAW + 4)
    claim = view.claims[claim.target.cid]
    assert (claim.verdict, claim.announced) == (verdicts.VOID, 0), (
        "it is not announced for one who is too light"
    )
    assert not budget.enough({b"a": 1, b"b": 1, b"c": 1}, (b"a", b"b", b"c"), (b"a",))
    assert budget.enough({b"a": 1, b"b": 1}, (b"a", b"b"), (b"a",))


def test_a_claim_waits_while_nobody_is_awake_and_its_author_has_evaded_nothing() -> None:
    world = mesh("ann", "ben")
    for name in ("ann", "ben"):
        world.nodes[name].kind = "asleep"
    view = world.run(5)
    alone = [who for who in view.ledger.trust if view.is_live(who)]
    record = world.absorb("root", "minilm")
    view = world.run(4)
    if alone != [world.nodes["root"].key.public] or record.cid not in view.claims:
        pytest.skip("the root's trust makes no round alone")
    assert view.claims[record.cid].stage == "waiting"
    for name in ("ann", "ben"):
        world.nodes[name].kind = "honest"
    view = world.run(9)
    assert view.claims[record.cid].verdict == verdicts.ACCEPTED and not view.claims[record.cid].evaded


# ---- layer groups


@pytest.mark.parametrize("groups", [(3,), (0, 7), (1, 2, 6)])
def test_only_layer_groups_that_hold_something_are_drawn(groups: tuple[int, ...]) -> None:
    world = mesh("ann", "ben", "cat")
    _, claim = world.absorbed("ann", "small", groups=groups)
    assert claim.body.groups == groups
    drawn = {segment for probe in claim.probes.values() for segment, _ in probe.segments}
    assert drawn and drawn <= set(groups)
    assert claim.verdict == verdicts.ACCEPTED, claim.reason


def test_a_new_authors_groups_are_dealt_out_and_all_replayed() -> None:
    world = mesh("ann", "ben")
    world.join(SimNode("new", world.seed), None)
    world.run(2)
    _, claim = world.absorbed("new", "small", groups=(1, 4, 5))
    drawn = sorted(segment for probe in claim.probes.values() for segment, _ in probe.segments)
    assert claim.new_author and drawn == [1, 4, 5]


def test_empty_groups_that_are_claimed_full_refute_the_claim_by_its_own_opening() -> None:
    """Else they would be drawn in place of those that hold something."""
    world = mesh("ann", "ben")
    record = world.absorb("ann", "small", groups=(0, 7))
    view = world.run(8)
    assert view.claims[record.cid].verdict == verdicts.ACCEPTED
    node, run = world.nodes["ann"], world.nodes["ann"].runs[record.cid]
    again = world.absorb("ann", "two", groups=(0, 7))
    body = dataclasses.replace(
        again.body, groups=tuple(range(8)), steps=7, state=view.bank.members("text"), name="three"
    )
    lied = world.write(node, body)
    node.runs[lied.cid], world.shards[lied.cid] = node.runs[again.cid], world.shards[again.cid]
    view = world.run(9)
    assert view.claims[lied.cid].verdict == verdicts.REFUTED
    assert "empty layer groups" in view.claims[lied.cid].reason
    assert evidence.filled(run.digests, run.tail) == (0, 7)


# ---- offering again what the gate refused


def refused(world: AbsorbWorld) -> verdicts.Claim:
    """A claim of ann's that does not help yet."""
    _, claim = world.absorbed("ann", "idle", gains={0: 0, 1: 0})
    assert world.view().bank.standings[claim.target.cid].word == bank.REFUSED
    return claim


def test_what_the_gate_refused_may_be_offered_again_by_anybody_when_the_state_has_changed() -> None:
    world = mesh("ann", "ben")
    claim = refused(world)
    early = world.absorb("ben", "idle")
    view = world.run(3)
    assert early.cid not in view.claims and "Already absorbed" in view.notes[early.cid]
    assert "when the state of its modality has other members" in terms.why_taken(view, claim.target.cid)
    world.absorbed("ben", "other")
    again = world.absorb("ben", "idle", gains={0: 60, 1: 0})
    view = world.run(8)
    assert view.claims[again.cid].verdict == verdicts.ACCEPTED
    assert again.cid in view.bank.members()
    late = world.absorb("ann", "idle", gains={0: 60, 1: 0})
    assert late.cid not in world.run(3).claims, "it is a member now"


def test_against_the_state_that_refused_it_nothing_is_offered_again() -> None:
    world = mesh("ann", "ben")
    refused(world)
    world.absorbed("ben", "other")
    same = world.absorb("ann", "idle", state=())
    view = world.run(3)
    assert same.cid not in view.claims


def test_while_the_state_has_not_changed_another_one_that_is_named_opens_nothing() -> None:
    world = mesh("ann", "ben")
    world.absorbed("ben", "other")
    refused(world)
    invented = world.absorb("ann", "idle", state=())
    assert invented.cid not in world.run(3).claims


def test_offering_again_is_bounded_once_for_each_change_and_in_all() -> None:
    world = mesh("ann", "ben")
    claim, offers = refused(world), 1
    for number in range(REMEASURES_MAX + 2):
        world.absorbed("ben", f"member {number}", epochs=7)
        for _ in range(2):
            record = world.absorb("ann", "idle", gains={0: 0, 1: 0})
            view = world.run(7)
            offers += record.cid in view.claims
    assert offers == REMEASURES_MAX + 1
    held = terms.holder(view, terms.work_of(claim.body))
    assert held is not None and f"measured {REMEASURES_MAX + 1} times" in terms.why_taken(view, held)


def test_a_join_that_says_less_than_nothing_is_refused() -> None:
    world = mesh("ann")
    join = next(r.body for r in world.records if r.kind == "join")
    with pytest.raises(bodies.Refused, match="verify_ops"):
        bodies.Join.from_map({**join.to_map(), "verify_ops": -1})
