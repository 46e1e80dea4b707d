"""Reputation and invitations: who earns, who pays, and what a closed ring gets."""

from __future__ import annotations

import pytest

from spore_borg.records import bodies, keys
from spore_borg.records.cid import Cid
from spore_borg.views import reputation as rep
from spore_borg.views.reduce import View, invitation_message
from tests.world import SimNode, World, h

Ticket = tuple[Cid, keys.SigningKey]


def score(world: World, view: View, name: str) -> int:
    """A node's score in 2^-20 trust."""
    return view.ledger.account(world.nodes[name].key.public).score


def joined(world: World, name: str, ticket: Ticket | None, proof: bytes | None = None) -> None:
    """Join with a ticket, or with a proof that is not for this key."""
    if ticket is not None and proof is not None:
        node = world.nodes[name] = SimNode(name, world.seed)
        node.join_epoch = world.epoch
        body = bodies.Join(
            family="CPU_TEST", device="toy", memory_mb=1, cores=1, fingerprint=node.fingerprint,
            anchor=node.onion_values.anchor, role="research", agent="sim", invite=(ticket[0], proof), stamp=None,
            verify_bytes=0, verify_ops=0,
        )  # fmt: skip
        world.write(node, body)
    else:
        world.join(SimNode(name, world.seed), ticket)


def invite(
    world: World, who: str, uses: int = 1, until: int = 10**6, endowment: int = 3 * bodies.ONE
) -> Ticket:
    """A ticket of any node."""
    one_time = keys.SigningKey(h("ticket", len(world.records)))
    body = bodies.Invite(key=one_time.public, endowment=endowment, uses=uses, until=until)
    return world.write(world.nodes[who], body).cid, one_time


def test_invitation_serves_as_often_as_it_says_and_only_in_time() -> None:
    world = World(1)
    world.populate()
    once, expired = invite(world, "root"), invite(world, "root", until=world.epoch - 1)
    joined(world, "first", once)
    world.run(1)
    joined(world, "second", once)
    joined(world, "late", expired)
    view = world.run(2)
    assert score(world, view, "first") > 2 * bodies.ONE
    assert score(world, view, "second") == score(world, view, "late") == 0


def test_invitation_is_bound_to_the_key_that_its_holder_signed() -> None:
    world = World(2)
    world.populate()
    ticket = invite(world, "root", uses=4)
    assert world.mesh is not None
    friend = SimNode("friend", world.seed).key.public
    proof = ticket[1].sign(invitation_message(world.mesh, friend))
    joined(world, "thief", ticket, proof)
    view = world.run(2)
    assert score(world, view, "thief") == 0


def test_invitation_of_an_untrusted_node_gives_nothing() -> None:
    world = World(3)
    world.populate()
    joined(world, "stranger", None)
    world.run(1)
    joined(world, "sybil", invite(world, "stranger", uses=8))
    view = world.run(2)
    assert score(world, view, "stranger") == score(world, view, "sybil") == 0


def test_endowment_by_a_node_comes_out_of_its_own_share() -> None:
    world = World(4)
    view = world.populate("a")
    before = score(world, view, "a")
    joined(world, "b", invite(world, "a", endowment=bodies.ONE))
    view = world.run(2)
    after = score(world, view, "a"), score(world, view, "b")
    assert after[1] and abs(before - sum(after)) < before // 20  # only decay is lost
    joined(world, "c", invite(world, "a", endowment=4 * bodies.ONE))
    view = world.run(2)
    assert score(world, view, "a") == 0 and score(world, view, "c") < before


def test_closed_ring_of_invited_keys_earns_nothing() -> None:
    """Keys that only invite and vouch for each other, and never one of them is trusted."""
    world = World(5)
    world.populate("a")
    for name in ("r1", "r2", "r3"):
        joined(world, name, None)
    world.run(1)
    joined(world, "r4", invite(world, "r1", uses=8))
    for name in ("root", "a"):
        world.nodes[name].kind = "idle"  # seals, verifies nothing
    for number in range(4):
        world.experiment(world.nodes["r1"], 10**9 - number * 10**8, None, label=number)
        view = world.run(3)
    view = world.run(12)
    assert all(score(world, view, name) == 0 for name in ("r1", "r2", "r3", "r4"))
    assert not any(step for frontier in view.frontiers.values() for step in frontier.steps)


def test_ledger_entries_sum_to_scores() -> None:
    world = World(6)
    world.populate("a", "b", "c", "d", c="lazy", d="metric")
    for number, name in enumerate(("a", "b", "d", "a")):
        world.claim(name, 10**9 - number * 10**8, epochs=7)
    view = world.run(3)
    assert {"decay", "invited", "verification", "wrong accusation", "fraud"} <= {
        e.rule for e in view.ledger.entries
    }
    for key, account in view.ledger.accounts.items():
        entries = [entry for entry in view.ledger.entries if entry.node == key]
        assert sum(entry.amount for entry in entries) == account.booked
        assert 0 <= account.score <= account.booked
        assert [entry.total for entry in entries] == [
            sum(entry.amount for entry in entries[: number + 1]) for number in range(len(entries))
        ]
    assert all(type(entry.amount) is int and entry.total >= 0 for entry in view.ledger.entries)


def test_passing_what_a_jury_refutes_costs_half() -> None:
    """An accomplice reveals the author's own number for the named block."""
    world = World(7)
    world.populate("a", "b", "c", "d", a="metric")
    record = world.experiment(world.nodes["a"], 10**9, None)
    friend = world.nodes["b"]
    honest = world.recompute

    def recompute(node: SimNode, duty: object, view: View) -> object:
        found = honest(node, duty, view)  # type: ignore[arg-type]
        if node is not friend:
            return found
        told = world.nodes["a"].runs[record.cid].losses
        return type(found)(found.params, tuple((b, told[b]) for b, _ in found.losses), found.segments, 1)

    world.recompute = recompute  # type: ignore[method-assign, assignment]
    view = world.run(14)
    claim = view.claims[record.cid]
    assert claim.verdict == "refuted"
    rules = [e.rule for e in view.ledger.entries if e.node == friend.key.public]
    named_by_friend = claim.ruling.get(friend.key.public)
    assert ("passed a fraud" in rules) == (named_by_friend == "clear")
    assert named_by_friend == "clear"


@pytest.mark.parametrize("sybils", [1, 4, 16])
def test_splitting_a_score_never_gains_trust(sybils: int) -> None:
    whole, split = rep.Ledger(), rep.Ledger()
    total = 40 * bodies.ONE
    whole.earn(b"one", "test", total, None, "")
    for number in range(sybils):
        split.earn(bytes([number]), "test", total // sybils, None, "")
    whole.derive()
    split.derive()
    assert sum(split.trust.values()) <= sum(whole.trust.values())


def test_roots_keep_a_third_and_a_floor() -> None:
    ledger = rep.Ledger(roots=(b"r1", b"r2"))
    for number in range(30):
        ledger.earn(bytes([number]), "test", 10 * bodies.ONE, None, "")
    ledger.derive()
    roots, total = ledger.trust[b"r1"] + ledger.trust[b"r2"], sum(ledger.trust.values())
    assert 3 * roots >= total - 6
    old = rep.Ledger(roots=(b"r1",), round=10**6)
    old.derive()
    assert old.trust == {b"r1": rep.ROOT_FLOOR}


def test_influence_is_capped_at_a_quarter() -> None:
    capped = rep.influence({b"a": 100, b"b": 10, b"c": 10})
    assert capped == {b"a": 30, b"b": 10, b"c": 10}


def test_dead_keys_earn_nothing() -> None:
    ledger = rep.Ledger()
    ledger.earn(b"a", "test", 10, None, "")
    ledger.ban(b"a", "fraud", b"cause", "")
    ledger.earn(b"a", "test", 10, None, "")
    assert ledger.account(b"a").score == 0 and ledger.account(b"a").banned_cause == b"cause"


def test_a_mesh_that_idles_keeps_its_verifier() -> None:
    """With decay by time ben's trust was gone after 200 idle rounds, and nothing could bring it back."""
    world = World(6)
    before = score(world, world.populate("ben"), "ben")
    view = world.run(200)
    assert score(world, view, "ben") == before
    view, claim = world.claim("root", 10**9, epochs=6)
    assert view.claims[claim.target.cid].verdict == "accepted"
    assert any(e.rule == "verification" for e in view.ledger.entries)
    world.claim("root", 9 * 10**8, claim.target.cid, epochs=6)
    view = world.run(4)
    assert any(e.rule == "decay" for e in view.ledger.entries)
