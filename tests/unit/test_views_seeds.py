"""Seeds follow from intents: the rule against a second reading of the text, and attempts to choose a seed."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import pytest

from spore_borg.limits import OPEN_INTENTS_MAX
from spore_borg.records import bodies, onion
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views import seeds
from spore_borg.views.reduce import View
from spore_borg.views.settle import recipe_digest
from tests.world import SimNode, World, h

QUALITY = 10**9


def mesh(seed: int, *names: str, **kinds: str) -> World:
    """A mesh in which everyone is trusted."""
    world = World(seed)
    world.populate(*names, **kinds)
    world.run(2)
    return world


def pasts(records: list[Record]) -> dict[Cid, set[Cid]]:
    """Each record's whole past and the record itself, by its definition."""
    past: dict[Cid, set[Cid]] = {}
    for record in records:  # a world writes in an order in which every record follows its past
        past[record.cid] = {record.cid}.union(*(past[cid] for cid in record.past()))
    return past


def seed_by_the_text(
    world: World, intent: Record, experiment: Record, counted: dict[bytes, int]
) -> bytes | None:
    """Chapter 40, section 1a, word by word; ``counted``: trust of the counted nodes."""
    by_cid, past = {r.cid: r for r in world.records}, pasts(world.records)
    seals = sorted((r for r in world.records if r.kind == "seal"), key=lambda r: (r.seq, r.cid))
    chain, at = [], experiment.prev
    while at != intent.cid:
        assert at is not None
        chain.append(at)
        at = by_cid[at].prev
    for own in reversed(chain):
        if by_cid[own].epoch > intent.epoch + 16:
            return None
        found, again = {}, set()
        for who in counted:
            knowing = [
                s for s in seals if s.author == who and s.cid in past[own] and intent.cid in past[s.cid]
            ]
            if knowing and knowing[0].epoch <= intent.epoch + 3:
                found[who] = knowing[0].body.value
                again |= {who} if knowing[-1].seq > knowing[0].seq else set()
        if 2 * sum(counted[who] for who in again) > sum(counted.values()):
            values = b"".join(found[who] for who in sorted(found))
            return hashlib.sha256(b"spore-borg/seed\0" + intent.cid + values).digest()[:8]
    return None


def patchy(world: World, rng: random.Random, epochs: int) -> None:
    """Epochs in which nodes do not see everything: each seal names some of the heads only."""
    for _ in range(epochs):
        world.epoch += 1
        for node in rng.sample(list(world.nodes.values()), len(world.nodes)):
            heads = [cid for cid in world.heads if rng.random() < 0.7]
            value = node.onion_values.value(world.epoch - node.join_epoch)
            kept = set(world.heads)
            parents = tuple(sorted(heads or [node.prev or world.records[0].cid]))
            world.write(node, bodies.Seal(value=value, round=0, digest=None), parents=parents)
            world.heads |= kept


@pytest.mark.parametrize("number", range(8))
def test_seeds_follow_from_the_text(number: int) -> None:
    print("seed", number)
    rng = random.Random(number)
    world = mesh(number, "a", "b", "c", "d")
    node = world.nodes[rng.choice(["root", "a", "d"])]
    plan = world.declare(node, QUALITY)
    voters = seeds.electorate(world.view(), plan.intent.epoch)
    assert voters is not None
    counted = dict(voters.trust)
    assert counted.pop(node.key.public) > 0 and len(counted) == 4
    patchy(world, rng, 6)
    given = world.seed_of(plan)
    if given is None:
        pytest.skip("too much was lost for a seed")
    record = world.publish(plan)
    assert given == seed_by_the_text(world, plan.intent, record, counted)
    view = world.run(4)
    assert record.cid in view.claims and view.witnesses[record.cid]
    shuffled = View(rng.sample(world.records, len(world.records)))
    assert shuffled.witnesses == view.witnesses and shuffled.notes == view.notes
    assert [r.digest for r in shuffled.rounds] == [r.digest for r in view.rounds]


def test_nothing_that_comes_later_changes_a_seed() -> None:
    world = mesh(1, "a", "b", "c", c="asleep")
    plan = world.ripened(world.declare(world.nodes["a"], QUALITY))
    given = world.seed_of(plan)
    world.nodes["c"].kind = "honest"
    world.run(3)
    assert world.seed_of(plan) == given
    record = world.publish(plan)
    view = world.run(2)
    assert record.cid in view.claims


def notes(world: World, *records: Record) -> list[str]:
    """Why these are no claims, two epochs later."""
    view = world.run(2)
    assert not view.claims.keys() & {record.cid for record in records}
    return [view.notes[record.cid] for record in records]


def test_a_seed_of_ones_own_choice_is_no_claim() -> None:
    world = mesh(2, "a", "b")
    node = world.nodes["a"]
    plan = world.ripened(world.declare(node, QUALITY))
    own = [node.onion_values.value(epoch - node.join_epoch) for epoch in range(2, world.epoch)]
    wanted = [seeds.mix(plan.intent.cid, [value]) for value in own] + [bytes(8)]
    made = [world.publish(plan, seed=seed) for seed in wanted]
    said = notes(world, *made)
    assert "not the one that its intent got" in said[0] and all(
        "used by an earlier" in word for word in said[1:]
    )


def test_one_intent_is_one_experiment() -> None:
    world = mesh(3, "a", "b")
    plan = world.ripened(world.declare(world.nodes["a"], QUALITY))
    first = world.publish(plan)
    second = world.publish(plan, params=h("others"))
    assert "used by an earlier" in notes(world, second)[0]
    assert first.cid in world.view().claims


def test_a_crash_uses_its_intent_up() -> None:
    world = mesh(4, "a", "b")
    plan = world.ripened(world.declare(world.nodes["a"], QUALITY))
    empty = dict.fromkeys(("metric", "loss_root", "loss_sum", "state_root", "weights", "params"))
    world.publish(plan, outcome="crashed", error="x", states=(), **empty)
    assert "used by an earlier" in notes(world, world.publish(plan))[0]


def test_another_run_than_declared_is_no_claim() -> None:
    world = mesh(5, "a", "b")
    base = world.experiment(world.nodes["b"], QUALITY, None).cid
    world.run(2)
    plan = world.ripened(world.declare(world.nodes["a"], QUALITY))
    other = world.publish(plan, recipe={"x": 7})
    based = world.publish(plan, bases=(base,))
    stolen = world.write(world.nodes["b"], other.body)
    said = notes(world, other, based, stolen)
    assert "declares another run" in said[0] and "declares another run" in said[1]
    assert "no intent of its author" in said[2]
    assert plan.intent.cid not in world.view().used  # none of them was the declared run


def test_an_experiment_before_its_seed_is_no_claim() -> None:
    world = mesh(6, "a", "b")
    node = world.nodes["a"]
    ripe = world.ripened(world.declare(node, QUALITY))
    plan = dataclasses.replace(
        ripe, intent=world.declare(node, QUALITY, label="next").intent, recipe={"x": "next"}
    )
    body = world.publish(ripe).body
    early = world.write(
        node, dataclasses.replace(body, intent=plan.intent.cid, recipe=plan.recipe, params=h("early"))
    )
    assert "before its intent had a seed" in notes(world, early)[0]


def test_an_intent_that_is_held_back_gets_nothing_for_it() -> None:
    """The author looks at the others' values first, and shows an intent with an old epoch afterwards."""
    world = mesh(7, "a", "b", "c")
    node, heads = world.nodes["a"], set(world.heads)
    hidden = world.declare(node, QUALITY)
    world.records.remove(hidden.intent)
    world.heads, node.kind = heads, "asleep"
    world.run(5)
    world.records.append(hidden.intent)
    world.heads.add(hidden.intent.cid)
    assert world.seed_of(hidden) is None
    node.kind = "honest"
    assert world.seed_of(hidden) is None
    world.run(3)
    assert "too late" in world.view().promises[hidden.intent.cid].fault
    assert world.seed_of(hidden) is None  # witnesses of a later epoch do not count


def test_what_counted_nodes_have_seen_cannot_be_left_out() -> None:
    """Whichever of the others' last seals an author names, the witnesses are the same."""
    world = mesh(8, "a", "b", "c", "d")
    node = world.nodes["a"]
    plan = world.declare(node, QUALITY)
    node.kind = "asleep"
    world.run(2)
    view, drawn = world.view(), set()
    last = [view.dag.records[at] for who, at in view.dag.seals[world.epoch].items()]
    for (
        seal
    ) in last:  # the last one that sealed has seen all the others' seals; earlier ones fewer of that epoch
        twin = SimNode("a", 8)
        twin.key, twin.seq, twin.prev = node.key, node.seq, node.prev
        heads, count = set(world.heads), len(world.records)
        profile = bodies.Profile(display_name="", bio="", website="", avatar_url="", donation_address="")
        fixing = world.write(twin, profile, parents=(seal.cid,))
        found = seeds.ripe(View(world.records), plan.intent, fixing.cid)
        if found is not None:
            drawn.add(found)
        del world.records[count:]
        world.heads = heads
    assert len(drawn) == 1 and len(next(iter(drawn)).witnesses) == 4


def test_a_new_onion_comes_too_late() -> None:
    """An accomplice that joins again after the intent cannot choose its value: its seals do not count for it."""
    world = mesh(9, "a", "b", "c")
    plan = world.declare(world.nodes["a"], QUALITY)
    friend = world.nodes["c"]
    friend.onion_values = onion.Onion(h("chosen"), 256)
    world.join(friend, None)
    plan = world.ripened(plan)
    record = world.publish(plan)
    view = world.run(2)
    authors = {view.dag.records[view.dag.index[cid]].author for cid in view.witnesses[record.cid]}
    assert authors == {world.nodes[name].key.public for name in ("root", "b")}


def test_open_intents_are_few_and_different() -> None:
    world = mesh(10, "a", "b")
    node = world.nodes["a"]
    same = [world.declare(node, QUALITY) for _ in range(2)]
    others = [world.declare(node, QUALITY, label=number) for number in range(OPEN_INTENTS_MAX)]
    view = world.run(2)
    faults = [view.promises[plan.intent.cid].fault for plan in (*same, *others)]
    assert not faults[0] and "same run before" in faults[1]
    assert not any(faults[2:-1]) and "8 other runs" in faults[-1]
    shown = world.publish(world.ripened(same[0]))
    again = world.declare(node, QUALITY)  # its first run has a result by now
    assert not world.run(2).promises[again.intent.cid].fault
    ninth = dataclasses.replace(shown.body, intent=others[-1].intent.cid, recipe=others[-1].recipe)
    assert "8 other runs" in notes(world, world.write(node, ninth))[0]


def test_what_led_to_nothing_is_counted() -> None:
    world = mesh(11, "a", "b")
    node = world.nodes["a"]
    plans = [world.declare(node, QUALITY, label=number) for number in range(3)]
    world.publish(world.ripened(plans[0]))
    world.run(3)
    assert seeds.lapsed(world.view()) == {node.key.public: (3, 0)}
    world.run(25)
    assert seeds.lapsed(world.view()) == {node.key.public: (3, 2)}
    world.publish(plans[1])  # better late than never
    assert seeds.lapsed(world.run(3)) == {node.key.public: (3, 1)}


def test_nobody_binds_a_lone_author() -> None:
    world = mesh(12)
    plan = world.declare(world.nodes["root"], QUALITY)
    assert world.seed_of(plan) == seeds.mix(plan.intent.cid, [])  # at once
    record = world.publish(plan)
    view = world.run(2)
    assert record.cid in view.claims and view.witnesses[record.cid] == ()


def test_an_author_whose_fellows_fell_asleep_goes_on_alone() -> None:
    world = mesh(13, "a", "b", a="asleep", b="asleep")
    plan = world.declare(world.nodes["root"], QUALITY)
    assert world.seed_of(plan) is None  # they were awake a moment ago
    world.run(8)
    assert world.seed_of(plan) is None
    plan = world.declare(world.nodes["root"], QUALITY, label="alone")
    assert world.seed_of(plan) == seeds.mix(plan.intent.cid, [])


def test_a_known_layer_saves_hashes_in_both_directions() -> None:
    values = onion.Onion(h("o"), 64)
    for known in (None, (7, values.value(7)), (40, values.value(40))):
        for index in (0, 7, 20, 40, 64):
            assert onion.check(values.anchor, values.value(index), index, known)
            assert not onion.check(values.anchor, h("no"), index, known)
            assert not onion.check(values.anchor, values.value(index), index + 1, known)


def test_a_digest_names_a_recipe() -> None:
    assert seeds.run_of(b"k", bodies.Intent(task=Cid.of(b"t"), bases=(), recipe=recipe_digest({"x": 1}), until=1)) == (
        b"k", Cid.of(b"t"), (), recipe_digest({"x": 1}),
    )  # fmt: skip
