"""Absorptions on their way through verification, the gate and the state, in a world of toy conversions."""

from __future__ import annotations

import random

import pytest

from spore_borg.limits import REMEASURES_MAX
from spore_borg.policies import absorber
from spore_borg.records import bodies
from spore_borg.views import bank, evidence, gate, reputation, settle, verdicts
from spore_borg.views.reduce import View
from spore_borg.views.rows import tables
from tests.absorb_world import AbsorbWorld
from tests.world import h


def mesh(*names: str, seed: int = 1, **task: int) -> AbsorbWorld:
    world = AbsorbWorld(seed)
    world.populate(*names)
    world.absorb_task(**task)
    world.run(2)
    return world


def test_a_verified_absorption_joins_the_state_and_is_paid() -> None:
    world = mesh("ann", "ben")
    before = world.view().ledger.accounts[world.nodes["ann"].key.public].score
    view, claim = world.absorbed("ann", "minilm")
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    standing = view.bank.standings[claim.target.cid]
    assert (standing.word, view.bank.members("text")) == (bank.JOINED, (claim.target.cid,))
    assert [(item.name, item.word) for item in standing.weighed] == [("topics", "better"), ("sts", "even")]
    assert all(8 <= item.pairs <= 16 for item in standing.weighed)
    rules = [e for e in view.ledger.entries if e.cause == claim.target.cid and e.rule == "state member"]
    assert [entry.amount for entry in rules] == [reputation.CREDIT_STEP]
    assert view.ledger.accounts[world.nodes["ann"].key.public].score > before
    assert {len(probe.blocks) for probe in claim.probes.values()} == {120}
    assert view.bank.members("image") == ()


@pytest.mark.parametrize(
    ("gains", "why"),
    [({0: 0, 1: 0}, "no probe beyond"), ({0: 60, 1: -60}, "worse in sts"), ({}, "No probe has its modality")],
)
def test_what_does_not_help_or_hurts_stays_out(gains: dict[int, int], why: str) -> None:
    world = mesh("ann", "ben")
    view, claim = world.absorbed("ann", "minilm", gains=gains)
    assert claim.verdict == verdicts.ACCEPTED
    assert view.bank.members() == ()
    assert why in view.bank.standings[claim.target.cid].why
    assert not [e for e in view.ledger.entries if e.cause == claim.target.cid and e.node == claim.author]
    assert claim.body.outcome == "discarded"


@pytest.mark.parametrize(
    ("lie", "tier"),
    [("weight", "segment"), ("source", "segment"), ("fidelity", "block"), ("probes", "block")],
)
def test_every_lie_is_refuted_and_ends_its_key(lie: str, tier: str) -> None:
    world = mesh("ann", "ben", "cat")
    world.absorb("ann", "minilm", lie=lie)
    view = world.run(12)
    (claim,) = view.claims.values()
    if claim.verdict == verdicts.ACCEPTED and tier == "segment":
        pytest.fail(f"no drawn group shows it: {claim.reason}")
    assert claim.verdict == verdicts.REFUTED, claim.reason
    assert tier in claim.reason
    assert view.ledger.accounts[claim.author].banned
    assert view.bank.members() == view.bank_solo.members() == ()


def test_a_metric_that_is_not_that_of_its_losses_is_refuted_by_its_own_opening() -> None:
    world = mesh("ann", "ben")
    _, claim = world.absorbed("ann", "minilm", lie="metric")
    assert claim.verdict == verdicts.REFUTED
    assert "infidelity" in claim.reason


def test_the_same_source_is_absorbed_once() -> None:
    world = mesh("ann", "ben")
    _, first = world.absorbed("ann", "minilm")
    view = world.view()
    again = world.absorb("ben", "minilm", gains={0: 5, 1: 5})
    other = world.absorb("ben", "minilm", steps=7, gains={0: 60, 1: 0})
    view = world.run(8)
    assert again.cid not in view.claims
    assert f"Already absorbed by {first.target.cid}" in view.notes[again.cid]
    assert view.claims[other.cid].verdict == verdicts.ACCEPTED


def test_two_at_once_make_one_stale_and_its_author_measures_again() -> None:
    world = mesh("ann", "ben")
    one, two = world.absorb("ann", "one"), world.absorb("ben", "two")
    view = world.run(9)
    words = {cid: view.bank.standings[cid].word for cid in (one.cid, two.cid)}
    assert sorted(words.values()) == [bank.JOINED, bank.STALE]
    late = next(cid for cid, word in words.items() if word == bank.STALE)
    name = "ann" if late == one.cid else "ben"
    me = world.nodes[name].key.public
    assert absorber.stale(view, me) == [late]
    assert not [e for e in view.ledger.entries if e.cause == late and e.node == me]
    view, claim = world.absorbed(name, "one" if late == one.cid else "two")
    assert len(view.bank.members("text")) == 2
    assert claim.target.cid in view.bank.members()
    assert absorber.stale(view, me) == []


def test_measuring_again_is_bounded_and_for_the_author_only() -> None:
    world = mesh("ann", "ben")
    _, first = world.absorbed("ann", "one")
    for _ in range(REMEASURES_MAX + 2):
        record = world.absorb("ann", "two", state=())
        view = world.run(8)
    assert record.cid not in view.claims
    assert sum(claim.body.name == "two" for claim in view.claims.values()) == REMEASURES_MAX + 1
    assert world.view().bank.members() == (first.target.cid,)


def test_a_retraction_removes_what_its_author_brought_and_nothing_else() -> None:
    world = mesh("ann", "ben")
    _, claim = world.absorbed("ann", "minilm")
    cid = claim.target.cid
    for name, members in (("ben", (cid,)), ("ann", ())):
        world.write(world.nodes[name], bodies.Retract(target=cid, why="its licence"))
        assert world.run(2).bank.members() == members
    view, again = world.absorbed("ann", "minilm")
    assert again.verdict == verdicts.ACCEPTED, "a retracted source may come again, as a new record"
    assert view.bank.members() == (again.target.cid,)


def test_a_claim_that_is_retracted_early_never_joins() -> None:
    world = mesh("ann", "ben")
    record = world.absorb("ann", "minilm")
    world.tick()
    world.write(world.nodes["ann"], bodies.Retract(target=record.cid, why="a mistake"))
    view = world.run(8)
    assert view.claims[record.cid].verdict == verdicts.ACCEPTED
    assert view.bank.standings[record.cid].word == bank.REMOVED


def test_a_dead_key_loses_its_members() -> None:
    world = mesh("ann", "ben")
    world.absorbed("ann", "minilm")
    twin = world.nodes["ann"]
    world.write(
        twin, bodies.Profile(display_name="a", bio="", website="", avatar_url="", donation_address="")
    )
    twin.seq, twin.prev = twin.seq - 1, world.records[-1].prev
    world.write(
        twin, bodies.Profile(display_name="b", bio="", website="", avatar_url="", donation_address="")
    )
    twin.kind = "asleep"
    view = world.run(3)
    assert view.ledger.accounts[twin.key.public].banned
    assert view.bank.members() == view.bank_solo.members() == ()


def test_alone_its_authors_word_decides_until_others_come() -> None:
    world = mesh()
    view, claim = world.absorbed("root", "minilm", epochs=4)
    cid = claim.target.cid
    assert claim.verdict == verdicts.SOLO
    assert (view.bank.members(), view.bank_solo.members()) == ((), (cid,))
    second, _ = world.absorb("root", "second"), world.run(4)
    assert second.body.state == (cid,)
    world.populate_more("ann", "ben")
    view = world.run(14)
    assert view.bank.members() == view.bank_solo.members() == tuple(sorted((cid, second.cid)))
    (row,) = [row for row in tables(view, {cid: 1}, b"m" * 32)["shard"]]
    assert (row["member"], row["verdict"]) == (1, "confirmed")


def test_a_mesh_has_one_suite_for_an_evaluator_and_a_roots_goes_first() -> None:
    world = AbsorbWorld(1)
    world.populate("ann", "ben")
    guests = world.absorb_task("ann")
    world.run(2)
    early = world.absorb("ann", "minilm")
    world.run(1)
    assert world.view().suites == {h("learn"): guests}
    roots = world.absorb_task("root")
    world.absorb_task("root", name="another")
    view = world.run(8)
    assert view.suites == {h("learn"): roots}
    assert view.claims[early.cid].verdict == verdicts.ACCEPTED, "what was a claim stays one"
    world.absorbing = guests
    late = world.absorb("ann", "second")
    assert "not the mesh's task" in world.run(2).notes[late.cid]


def test_tasks_take_their_own_kind_of_claim() -> None:
    world = mesh("ann", "ben")
    world.absorbing, world.task = world.task, world.absorbing
    absorption = world.absorb("ann", "minilm")
    view = world.run(2)
    assert "not the mesh's task" in view.notes[absorption.cid]
    run = world.experiment(world.nodes["ann"], 10**9, None)
    assert "takes absorptions" in world.run(2).notes[run.cid]


def test_a_mesh_of_two_cannot_convict_but_does_not_believe_either() -> None:
    world = mesh("ann")
    record = world.absorb("ann", "minilm", lie="fidelity")
    view = world.run(14)
    assert view.by_instance[record.cid].verdict == verdicts.VOID
    assert view.claims[record.cid].verdict != verdicts.ACCEPTED
    assert view.bank.members() == ()


def test_a_split_over_a_layer_group_is_void_without_a_one_step_jury() -> None:
    world = AbsorbWorld(1)
    world.populate("ann", "ben", "cat")
    for name in ("root", "cat"):  # only ben is ann's twin
        world.nodes[name].fingerprint = b"G" * 32
        world.join(world.nodes[name], None)
    world.absorb_task()
    world.run(2)
    record = world.absorb("ann", "minilm", lie="weight")
    claim = world.run(14).by_instance[record.cid]
    assert claim.verdict == verdicts.VOID, claim.reason
    assert (claim.named is not None, claim.traces) == (True, {})


def test_a_bias_below_the_tolerance_moves_nothing() -> None:
    """The author lowers every block after its shard by what verification cannot see: the gate weighs the verifiers'."""
    world = mesh("ann", "ben", tolerance=3_000_000)  # 1.5 % of a block's loss
    level = {0: 0, 1: 0}
    record = world.absorb("ann", "minilm", gains=level, flat=True, lie="bias")
    view = world.run(8)
    assert view.claims[record.cid].verdict == verdicts.ACCEPTED, view.claims[record.cid].reason
    assert record.body.outcome == "kept", "by its own numbers it would join"
    assert view.bank.members() == ()


def test_any_order_and_any_stop_give_the_same_state(rng: random.Random) -> None:
    world = mesh("ann", "ben", seed=3)
    _, base = world.absorbed("ann", "minilm")
    world.absorbed("ben", "minilm", base=base.target.cid, infidelity=3_000_000)
    world.write(world.nodes["ann"], bodies.Retract(target=base.target.cid, why=""))
    grown = world.run(6)
    whole = View(world.records)
    shuffled = [*world.records, *world.records[::3]]
    rng.shuffle(shuffled)
    digests = {(v.bank.digest(), v.digest_of(v.round)) for v in (grown, whole, View(shuffled), world.view())}
    assert len(digests) == 1
    assert digests.pop()[0] is not None
    seq = {record.cid: number for number, record in enumerate(world.records)}
    rows = [tables(v, seq, b"m" * 32) for v in (grown, whole, View(shuffled))]
    for name in ("shard", "ledger", "meta", "queue"):
        said = [sorted(map(repr, table[name])) for table in rows]
        assert said[0] == said[1] == said[2], name


def test_the_view_digest_says_the_state_only_when_there_is_one() -> None:
    world = mesh("ann", "ben")
    view, claim = world.absorbed("ann", "minilm")
    assert view.bank.digest() is not None
    world.write(world.nodes["ann"], bodies.Retract(target=claim.target.cid, why=""))
    assert world.run(2).bank.digest() is None


def test_rows_say_where_every_absorption_stands() -> None:
    world = mesh("ann", "ben")
    view, claim = world.absorbed("ann", "minilm")
    dead = world.absorb("ben", "minilm")
    view = world.run(3)
    seq = {record.cid: number for number, record in enumerate(world.records)}
    value = tables(view, seq, world.nodes["root"].key.public)
    rows = {row["cid"]: row for row in value["shard"]}
    row = rows[str(claim.target.cid)]
    assert (row["member"], row["verdict"], row["name"], row["kind"]) == (
        1,
        "confirmed",
        "minilm",
        "absorption",
    )
    assert '"probe": "topics"' in row["gains"]
    assert rows[str(dead.cid)]["standing"].startswith("Already absorbed")
    meta = {item["key"]: item["value"] for item in value["meta"]}
    assert meta["state_members"] == "1" and len(meta["state_digest"]) == 64
    assert {row["kind"] for row in value["task"]} == {"experiment", "absorption"}
    titles = {item["kind"]: item["title"] for item in value["record"]}
    assert "minilm" in titles["absorption"]


def test_a_lazy_verifier_accuses_in_vain() -> None:
    world = mesh("ann", "ben", "cat")
    world.nodes["cat"].kind = "lazy"
    view, claim = world.absorbed("ann", "minilm", epochs=12)
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    assert claim.target.cid in view.bank.members()


def test_only_what_passed_counts_for_the_gate() -> None:
    world = mesh("ann", "ben")
    world.nodes["ben"].kind = "mute"
    view, claim = world.absorbed("ann", "minilm", epochs=7)
    assert claim.verdict != verdicts.ACCEPTED, "one of two pieces of evidence is no quorum"
    assert view.bank.standings == {}


def strangers(*names: str, seed: int = 1, far: tuple[str, ...]) -> AbsorbWorld:
    """A mesh in which some nodes have another fingerprint: their numbers differ as on another instruction set."""
    world = AbsorbWorld(seed)
    world.populate(*names)
    for name in far:
        world.nodes[name].fingerprint = b"G" * 32
        world.join(world.nodes[name], None)
    world.absorb_task()
    world.run(2)
    return world


@pytest.mark.parametrize("seed", range(1, 7))
def test_an_honest_author_is_accepted_by_nodes_of_another_fingerprint(seed: int) -> None:
    world = strangers("ann", "ben", "cat", seed=seed, far=("ann",))
    view, claim = world.absorbed("ann", "minilm", 12)
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    assert claim.alone_class
    deltas = [item.finding.loss_delta_max for item in claim.listed() if item.finding is not None]
    assert max(deltas) > 100 * claim.task.tolerance, "by the tolerance of twins it would be accused"
    assert view.bank.members() == (claim.target.cid,)
    assert not [e for e in view.ledger.entries if e.rule in ("fraud", "wrong accusation")]


@pytest.mark.parametrize("seed", range(1, 4))
def test_twins_and_others_verify_one_honest_claim(seed: int) -> None:
    world = strangers("ann", "ben", "cat", seed=seed, far=("ben", "cat"))
    _, claim = world.absorbed("ann", "minilm", 12)
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    (twin,) = claim.twins
    exact = {block: loss for block, loss in claim.evidence[twin].reveal.body.losses}  # type: ignore[union-attr]
    weighed = settle._recomputed(claim)
    assert all(weighed[block] == loss for block, loss in exact.items()), "twins' numbers go first"
    assert set(weighed) > set(exact)


def test_a_gross_lie_is_refuted_without_a_twin() -> None:
    world = strangers("ann", "ben", "cat", far=("ann",))
    view, claim = world.absorbed("ann", "minilm", 16, lie="gross")
    assert claim.verdict == verdicts.REFUTED, claim.reason
    assert view.ledger.accounts[claim.author].banned


def test_a_fidelity_that_no_other_hardware_can_tell_is_not_accepted_by_it_either() -> None:
    """Three times too good is beyond what hardware explains and below what convicts: void."""
    world = strangers("ann", "ben", "cat", far=("ann",))
    record = world.absorb("ann", "minilm", lie="third", infidelity=20_000_000)
    view = world.run(16)
    claim = view.claims[record.cid]
    assert claim.verdict != verdicts.ACCEPTED and not view.ledger.accounts[claim.author].banned
    assert view.bank.members() == ()


def test_a_small_lie_is_refuted_where_twins_see_it() -> None:
    world = strangers("ann", "ben", "cat", "dan", far=("cat", "dan"))
    _, claim = world.absorbed("ann", "minilm", 16, lie="far")
    assert claim.verdict == verdicts.REFUTED, claim.reason
    said = {claim.ruling[who] for who in claim.ruling if who not in claim.twins}
    assert said <= {"between"}, "what other hardware cannot tell does not outvote twins"


def test_one_twin_alone_does_not_convict_and_is_not_outvoted() -> None:
    world = strangers("ann", "ben", "cat", far=("root", "cat"))
    record = world.absorb("ann", "minilm", lie="far")
    view = world.run(16)
    assert view.by_instance[record.cid].verdict == verdicts.VOID, view.by_instance[record.cid].reason
    assert not [e for e in view.ledger.entries if e.rule in ("fraud", "wrong accusation")]


def test_a_lie_that_no_other_hardware_can_tell_carries_nothing_into_the_state() -> None:
    world = strangers("ann", "ben", "cat", far=("ann",))
    record = world.absorb("ann", "minilm", gains={0: 0, 1: 0}, flat=True, lie="far")
    view = world.run(12)
    claim = view.claims[record.cid]
    assert claim.verdict == verdicts.ACCEPTED, claim.reason
    assert record.body.outcome == "kept", "by its own numbers it would join"
    assert view.bank.members() == (), "the verifiers' numbers are weighed"


def test_by_the_far_tolerance_of_large_blocks_a_lie_gains_less_than_a_hundredth() -> None:
    """Even the author's own numbers, before raised and after lowered as far as they may be, are not better."""
    true = 10**10
    before, after = true * 1000 // 995, -(-true * 1000 // 1005)
    opening = bodies.Open(
        target=h("t"), commits=(), losses=tuple([0] * 16 + [before] * 16 + [after] * 16 + [0] * 192), digests=(),
        tail=b"", loss_secret=b"", state_secret=b"", inner=(),
    )  # fmt: skip
    world = mesh("ann", "ben")
    _, claim = world.absorbed("ann", "minilm")
    far = [evidence.tolerance(claim.body, claim.task, opening, b, False) for b in (16, 32)]
    assert before - true <= far[0] and true - after <= far[1]
    assert gate.weigh(0, "p", [before] * 16, [after] * 16).word == "even"


def member_pay(view: View, name: str, world: AbsorbWorld) -> list[int]:
    me = world.nodes[name].key.public
    return [e.amount for e in view.ledger.entries if e.node == me and e.rule == "state member"]


def test_to_retract_and_absorb_again_is_paid_once() -> None:
    world = mesh("ann", "ben")
    _, claim = world.absorbed("ann", "minilm")
    for _ in range(2):
        world.write(world.nodes["ann"], bodies.Retract(target=claim.target.cid, why="again"))
        world.run(2)
        view, claim = world.absorbed("ann", "minilm")
        assert view.bank.members() == (claim.target.cid,)
    assert len(member_pay(view, "ann", world)) == 1
    view, _ = world.absorbed("ann", "another")
    assert len(member_pay(view, "ann", world)) == 2, "what is new is paid"


def test_a_dead_keys_work_is_free_again() -> None:
    world = mesh("ann", "ben", "cat")
    world.absorbed("ann", "minilm")
    ann = world.nodes["ann"]
    for name in "ab":
        world.write(
            ann, bodies.Profile(display_name=name, bio="", website="", avatar_url="", donation_address="")
        )
        if name == "a":
            ann.seq, ann.prev = ann.seq - 1, world.records[-1].prev
    ann.kind = "asleep"
    assert world.run(3).bank.members() == ()
    view, claim = world.absorbed("ben", "minilm")
    assert view.bank.members() == (claim.target.cid,)


def test_a_state_names_only_what_was_verified() -> None:
    world = mesh("ann", "ben", "cat")
    waiting = world.absorb("cat", "hostile")
    world.run(1)
    early = world.absorb("ann", "one", state=(waiting.cid,))
    unknown = world.absorb("ben", "two", state=(world.absorbing,))
    image, _ = world.absorb("cat", "eyes", modality="image"), world.run(8)
    mixed = world.absorb("ben", "three", state=(image.cid,))
    view = world.run(3)
    assert "not verified" in view.notes[early.cid]
    assert "no acknowledged absorption" in view.notes[unknown.cid]
    assert "another modality" in view.notes[mixed.cid]


def test_a_copy_under_another_name_holds_the_same_work() -> None:
    world = mesh("ann", "ben")
    _, first = world.absorbed("ann", "minilm")
    sources = (("renamed/weights.bin", first.body.sources[0][1]),)
    copy = world.absorb(
        "ben", "own-model", sources=sources, weights=first.body.weights, params=first.body.params
    )
    assert "Already absorbed" in world.run(3).notes[copy.cid]
