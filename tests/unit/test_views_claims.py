"""What the views make of honest nodes, cheats and sleepers: one claim at a time, in the simulated world."""

from __future__ import annotations

import dataclasses

import pytest

from spore_borg.policies import prover
from spore_borg.records import bodies
from spore_borg.records.cid import RAW, Cid
from spore_borg.views import verdicts
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import ACCEPTED, REFUTED, SOLO, VOID
from tests.world import SEGMENTS, SimNode, World, h

QUALITY = 10**9


def rules(world: World, view: View, name: str) -> list[str]:
    """The rules by which the ledger changed a node's score."""
    key = world.nodes[name].key.public
    return [entry.rule for entry in view.ledger.entries if entry.node == key]


def banned(world: World, view: View, name: str) -> bool:
    """Whether a node's key is dead."""
    return view.ledger.account(world.nodes[name].key.public).banned


def test_honest_claim_is_accepted_and_is_the_first_step() -> None:
    world = World(1)
    world.populate("a", "b", "c")
    view, claim = world.claim("a")
    assert (claim.verdict, len(claim.probes)) == (ACCEPTED, 3)
    steps = view.frontiers[world.task, "CPU_TEST"].steps
    assert [step.cid for step in steps] == [claim.target.cid]
    assert "frontier step" in rules(world, view, "a") and "verification" in rules(world, view, "b")


def test_solo_then_announced_and_accepted() -> None:
    world = World(2)
    world.populate()
    view, claim = world.claim("root")
    assert claim.verdict == SOLO
    assert view.solo[world.task, "CPU_TEST"].steps and not view.frontiers[world.task, "CPU_TEST"].steps
    for name in ("a", "b"):
        world.join(SimNode(name, 2), world.invite(world.nodes["root"]))
    view = world.run(14)
    claim = view.claims[claim.target.cid]
    assert (claim.verdict, claim.announced) == (ACCEPTED, 1)
    assert len(view.frontiers[world.task, "CPU_TEST"].runs) == 1


@pytest.mark.parametrize("kind", ["metric", "process", "twists"])
def test_lies_are_refuted_and_never_on_a_frontier(kind: str) -> None:
    world = World(3)
    world.populate("a", "b", "c", a=kind)
    view, claim = world.claim("a", epochs=12)
    assert claim.verdict == REFUTED and banned(world, view, "a")
    for frontier in (*view.frontiers.values(), *view.solo.values()):
        assert all(step.cid != claim.target.cid for step in frontier.steps)
    assert view.ledger.trust.get(world.nodes["a"].key.public) is None


def test_lazy_accuser_loses_and_the_author_is_cleared() -> None:
    world = World(4)
    world.populate("a", "b", "c", b="lazy")
    view, claim = world.claim("a", epochs=12)
    assert claim.verdict == ACCEPTED and "jury" in claim.reason
    assert "wrong accusation" in rules(world, view, "b") and "verification" not in rules(world, view, "b")


@pytest.mark.parametrize("kind", ["mute", "sham", "idle", "copycat"])
def test_verifier_without_evidence_of_its_own_earns_nothing(kind: str) -> None:
    """Never revealed, revealed something else, never committed, committed after the opening."""
    world = World(5)
    world.populate("a", "b", "c", b=kind)
    view, claim = world.claim("a", epochs=16)
    assert claim.verdict == ACCEPTED
    assert "no-show" in rules(world, view, "b") and "verification" not in rules(world, view, "b")
    assert "verification" in rules(world, view, "c")


def test_copied_shadow_evidence_earns_nothing_and_honest_shadows_share_a_tenth() -> None:
    for kind, paid in (("copycat", False), ("honest", True)):
        world = World(6)
        world.populate("a", "b", "c")
        for number in range(4):
            world.join(SimNode(f"new{number}", 6, kind), None)
        world.run(3)
        view, claim = world.claim("a", epochs=10)
        assert claim.verdict == ACCEPTED
        scores = [view.ledger.account(world.nodes[f"new{n}"].key.public).score for n in range(4)]
        assert all(score > 0 for score in scores) if paid else not any(scores)
        assert sum(scores) <= bodies.ONE // 10


def test_copied_commit_and_its_evidence_are_worth_nothing() -> None:
    """The hash in a commit holds the verifier's key: another one cannot reveal to it."""
    world = World(19)
    world.populate("a", "b", "c", c="idle")
    record = world.experiment(world.nodes["a"], QUALITY, None)
    view = world.run(2)
    thief, victim = world.nodes["c"], world.nodes["b"]
    while not (theirs := world.view().claims[record.cid].evidence.get(victim.key.public)):
        view = world.tick()
    commit = world.write(thief, theirs.commit.body)
    while not any(e.reveal for e in view.claims[record.cid].evidence.values()):
        view = world.tick()
    nonce, found, _ = victim.found[record.cid, None]
    world.write(thief, prover.reveal_body(record.cid, commit.cid, nonce, found))
    view = world.run(4)
    claim = view.claims[record.cid]
    assert claim.verdict == ACCEPTED and thief.key.public in claim.evidence
    assert claim.evidence[thief.key.public].reveal is None
    assert "verification" not in rules(world, view, "c")


@pytest.mark.parametrize("kind", ["closed", "skips", "hides"])
def test_unopened_claim_is_void_without_loss_and_then_replayed_in_full(kind: str) -> None:
    world = World(7)
    world.populate("a", "b", "c", a=kind)
    world.nodes["a"].skipped = world.nodes["b"].key.public
    record = world.experiment(world.nodes["a"], QUALITY, None)
    view = world.run(1)
    while view.claims.get(record.cid) is None or view.claims[record.cid].verdict is None:
        view = world.tick()
    assert view.claims[record.cid].verdict == VOID and not banned(world, view, "a")
    assert "no-show" not in rules(world, view, "b")
    world.nodes["a"].kind = "honest"
    view = world.run(16)
    claim = view.claims[record.cid]
    assert (claim.verdict, claim.announced) == (ACCEPTED, 1)
    assert {segment for probe in claim.probes.values() for segment, _ in probe.segments} == set(
        range(SEGMENTS)
    )


def test_opening_before_the_commits_are_complete_does_not_count() -> None:
    """An author and one accomplice cannot shut the other verifiers out."""
    world = World(8)
    world.populate("a", "b", "c", b="idle", c="idle")
    author = world.nodes["a"]
    record = world.experiment(author, QUALITY, None)
    view = world.run(4)
    claim = view.claims[record.cid]
    accomplice = world.nodes["root"].key.public
    assert (claim.stage, set(claim.evidence)) == ("drawn", {accomplice})
    early = world.write(author, world.opening(author, claim))
    assert early.body.commits == (claim.evidence[accomplice].commit.cid,)
    world.nodes["b"].kind = world.nodes["c"].kind = "honest"
    view = world.run(10)
    claim = view.claims[record.cid]
    assert claim.verdict == ACCEPTED and claim.opening is not None and claim.opening.cid != early.cid
    assert {item.author for item in claim.listed()} == set(claim.probes) and len(claim.probes) == 3


def test_author_cannot_attest_to_itself_nor_evidence_serve_another_claim() -> None:
    world = World(9)
    world.populate("a", "b", "c")
    one = world.experiment(world.nodes["a"], QUALITY, None, label="one")
    two = world.experiment(world.nodes["b"], QUALITY, None, label="two")
    view = world.run(2)
    world.write(world.nodes["a"], bodies.AttestCommit(target=one.cid, digest=h("x"), named=None))
    view = world.run(3)
    assert world.nodes["a"].key.public not in view.claims[one.cid].evidence
    mine = next(iter(view.claims[two.cid].evidence.values()))
    stray = next(n for n in world.nodes.values() if n.key.public == mine.author)
    nonce, found, commit = stray.found[two.cid, None]
    world.write(stray, prover.reveal_body(one.cid, commit, nonce, found))  # right commit, wrong claim
    view = world.run(4)
    for claim in (view.claims[one.cid], view.claims[two.cid]):
        assert claim.verdict == ACCEPTED
        for item in claim.evidence.values():
            assert item.reveal is None or item.reveal.body.target == claim.cid


def test_equivocation_bans_whichever_two_of_three_are_seen() -> None:
    world = World(10)
    world.populate("a", "b")
    node = world.nodes["a"]
    seq, prev, heads = node.seq, node.prev, set(world.heads)
    forks = []
    for number in range(3):
        node.seq, node.prev, world.heads = seq, prev, set(heads)
        profile = bodies.Profile(
            display_name=f"a{number}", bio="", website="", avatar_url="", donation_address=""
        )
        forks.append(world.write(node, profile))
    world.heads = heads | {forks[1].cid, forks[2].cid}  # nobody ever names the first
    node.kind = "asleep"
    view = world.run(3)
    assert banned(world, view, "a") and "equivocation" in rules(world, view, "a")
    assert [view.ledger.account(node.key.public).banned_cause] == [max(forks[1].cid, forks[2].cid)]
    shuffled = View([forks[2], forks[1], forks[0], *reversed(world.records)])
    assert shuffled.rounds == view.rounds


def test_back_dated_claim_is_late_and_must_be_announced() -> None:
    world = World(11)
    world.populate("a", "b", "c")
    author = world.nodes["a"]
    plan = world.ripened(world.declare(author, QUALITY))
    heads, seq, prev = set(world.heads), author.seq, author.prev
    hidden = world.publish(plan)
    kept_seq, kept_prev = author.seq, author.prev
    world.records.remove(hidden)
    world.heads, author.kind = heads, "asleep"
    world.run(6)
    world.records.append(hidden)
    world.heads.add(hidden.cid)
    assert (kept_seq, kept_prev) == (seq + 1, hidden.cid) and prev is not None
    view = world.run(2)
    assert view.claims[hidden.cid].verdict == VOID and "too late" in view.claims[hidden.cid].reason
    author.kind = "honest"
    view = world.run(12)
    assert (view.claims[hidden.cid].verdict, view.claims[hidden.cid].announced) == (ACCEPTED, 1)


def test_sleeping_majority_stops_the_clocks_and_loses_nothing() -> None:
    world = World(12)
    world.populate("a", "b", "c")
    record = world.experiment(world.nodes["a"], QUALITY, None)
    view = world.run(2)
    for name in ("root", "b", "c"):
        world.nodes[name].kind = "asleep"
    before, asleep = view.round, world.run(20)
    assert asleep.round <= before + 1 and asleep.claims[record.cid].verdict is None
    trust = dict(asleep.ledger.trust)
    for name in ("root", "b", "c"):
        world.nodes[name].kind = "honest"
    assert View(world.records).ledger.trust == trust
    view = world.run(12)
    assert view.claims[record.cid].verdict == ACCEPTED


def test_mesh_that_idles_for_long_still_makes_rounds() -> None:
    world = World(13)
    root = SimNode("root", 13)
    root.onion_values = type(root.onion_values)(h("long"), 4000)
    world.found(root)
    for epoch in range(1, 2001):
        world.epoch = epoch
        world.write(root, bodies.Seal(value=root.onion_values.value(epoch), round=0, digest=None))
    view = View(world.records)
    assert view.round == 1999 and view.ledger.trust[root.key.public] > 0


def test_two_nodes_and_a_lazy_accuser_is_a_split() -> None:
    world = World(14)
    world.populate("a", a="lazy")
    view, claim = world.claim("root", epochs=14)
    assert claim.verdict in (VOID, None) and not banned(world, view, "root")
    assert any(c.verdict == VOID and "split" in c.reason for c in view.by_instance.values())


def test_three_sybils_without_trust_cannot_overturn() -> None:
    world = World(15)
    world.populate("a", "b", "c")
    for number in range(3):
        world.join(SimNode(f"sybil{number}", 15, "lazy"), None)
    world.run(2)
    view, claim = world.claim("a", epochs=10)
    assert claim.verdict == ACCEPTED and "jury" not in claim.reason
    assert all(not view.ledger.account(world.nodes[f"sybil{n}"].key.public).score for n in range(3))


def test_one_run_is_claimed_once() -> None:
    world = World(16)
    world.populate("a", "b", "c")
    view, claim = world.claim("a")
    score = view.ledger.account(world.nodes["a"].key.public).score
    again = world.write(world.nodes["a"], claim.body)
    stolen = world.write(world.nodes["b"], claim.body)
    view = world.run(8)
    other = world.publish(
        world.ripened(world.declare(world.nodes["a"], 2 * QUALITY)), params=claim.body.params
    )
    taken = world.publish(world.ripened(world.declare(world.nodes["b"], QUALITY)), params=claim.body.params)
    view = world.run(2)
    assert "used by an earlier experiment" in view.notes[again.cid]
    assert "no intent of its author" in view.notes[stolen.cid]
    assert "its own author" in view.notes[other.cid]
    assert "another author" in view.notes[taken.cid]
    assert not {again.cid, stolen.cid, other.cid, taken.cid} & view.claims.keys()
    assert view.ledger.account(world.nodes["a"].key.public).score < score + bodies.ONE // 2


def test_malformed_claims_say_what_is_wrong() -> None:
    world = World(17)
    world.populate("a", "b")
    author = world.nodes["a"]
    view, first = world.claim("a")
    other_task = world.write(
        world.nodes["root"], dataclasses.replace(view.tasks[world.task], name="other")
    ).cid
    good = first.body
    cases = {
        "task": dataclasses.replace(good, task=Cid.of(b"nothing", RAW)),
        "base is not": dataclasses.replace(good, bases=(other_task,)),
        "another task": dataclasses.replace(good, task=other_task, bases=(first.target.cid,)),
        "sum of its losses": dataclasses.replace(good, metric=(good.metric or 0) - 1),
        "number of segments": dataclasses.replace(good, states=()),
        "fingerprint": dataclasses.replace(good, fingerprint=b"G" * 32),
        "no intent": dataclasses.replace(good, intent=other_task),
    }
    records = {words: world.write(author, body) for words, body in cases.items()}
    view = world.run(2)
    for words, record in records.items():
        assert words in view.notes[record.cid], (words, view.notes[record.cid])
        assert record.cid not in view.claims


def test_one_round_takes_what_a_record_rests_on_first() -> None:
    """A task, an experiment on it and one that builds on that, all shown in one epoch, in 8 orders of their ids."""
    for seed in range(8):
        world = World(seed)
        world.populate()
        author = world.nodes["root"]
        world.epoch += 1
        first = world.experiment(author, QUALITY, None, label="first")
        second = world.experiment(author, QUALITY, first.cid, label="second")
        view = world.run(2)
        assert view.ack[first.cid] == view.ack[second.cid] and not view.notes
        assert set(view.claims) == {first.cid, second.cid}


def test_every_stage_has_a_deadline() -> None:
    world = World(18)
    world.populate("a", "b", "c", b="idle", c="idle", root="root")
    world.nodes["root"].kind = "idle"
    _, claim = world.claim("a", epochs=verdicts.ROUNDS_TO_COMMIT + 6)
    assert claim.verdict == VOID or claim.announced
