"""Makes ``spec/vectors/verdicts/*.json``: small record sets and what the views make of them.

``python -m tests.vectors.verdict_stories`` writes the files; ``--check`` compares them with what the code gives.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spore_borg.records import bodies
from spore_borg.records.envelope import Record, parse
from spore_borg.views.reduce import View
from tests.absorb_world import AbsorbWorld
from tests.world import World

FOLDER = Path(__file__).parents[2] / "spec" / "vectors" / "verdicts"


def accepted() -> World:
    """Three honest nodes; two claims, the second an improvement."""
    world = World(1)
    world.populate("ann", "ben")
    _, first = world.claim("ann", 10**9, epochs=6)
    world.claim("ben", 9 * 10**8, first.target.cid, epochs=6)
    return world


def lies() -> World:
    """One author fabricates its losses, another its training: both are refuted."""
    world = World(2)
    world.populate("ann", "ben", "mal", ann="metric", mal="process")
    for name in ("ann", "mal"):
        world.experiment(world.nodes[name], 10**9, None)
    world.run(8)
    return world


def accuser() -> World:
    """A verifier answers with numbers out of thin air; the jury clears the author."""
    world = World(3)
    world.populate("ann", "ben", "lea", lea="lazy")
    world.claim("ann", epochs=8)
    return world


def unopened() -> World:
    """An author does not open in time: void; it announces the claim, which is then replayed in full."""
    world = World(4)
    world.populate("ann", "ben", ann="closed")
    world.experiment(world.nodes["ann"], 10**9, None)
    world.run(8)
    world.nodes["ann"].kind = "honest"
    world.run(7)
    return world


def solo() -> World:
    """A root alone; then others come, and its claim is announced and accepted."""
    world = World(5)
    world.populate()
    world.experiment(world.nodes["root"], 10**9, None)
    world.run(4)
    world.populate_more("ann", "ben")
    world.run(10)
    return world


def absorbed() -> World:
    """Two models join the state, a duplicate is no claim, a refinement takes its base's place, one is retracted; one
    measured against an older state is stale, and one does not help."""
    world = AbsorbWorld(6)
    world.populate("ann", "ben")
    world.absorb_task()
    world.run(2)
    _, first = world.absorbed("ann", "one", 7)
    world.absorb("ben", "one")
    world.absorb("ben", "two")
    world.absorb("ann", "late", state=())
    world.run(7)
    world.absorb("ben", "one", base=first.target.cid, infidelity=3_000_000, gains={0: 0})
    world.run(7)
    world.absorb("ann", "idle", gains={0: 0, 1: 0})
    world.run(7)
    two = next(cid for cid in world.shards if world.view().body_of(cid).name == "two")
    world.write(world.nodes["ben"], bodies.Retract(target=two, why="never mind"))
    world.run(3)
    return world


def absorbed_lies() -> World:
    """One author publishes a shard that its source does not give, another inflates its fidelity: both are refuted."""
    world = AbsorbWorld(7)
    world.populate("ann", "ben", "mal")
    world.absorb_task()
    world.run(2)
    world.absorb("ann", "one", lie="weight")
    world.absorb("mal", "two", lie="fidelity")
    world.run(11)
    return world


def absorbed_far() -> World:
    """Nobody has ann's fingerprint, and their numbers are as far off as other instruction sets make them: ann's model
    joins, gains that it claims three times too large end its key. Ben's small lie is seen by its twins."""
    world = AbsorbWorld(8)
    world.populate("ann", "ben", "cat")
    world.nodes["ann"].fingerprint = b"G" * 32
    world.join(world.nodes["ann"], None)
    world.absorb_task()
    world.run(2)
    world.absorbed("ann", "one", 9)
    world.absorbed("ann", "two", 16, lie="gross")
    world.absorbed("ben", "three", 16, lie="far", modality="image")
    return world


def absorbed_large() -> World:
    """Dot takes on little: it is not drawn for a large model, which joins; a model of which only few layer groups hold
    something is replayed in those; one above the mesh's limit is no claim; for one that is too large for most the
    claim waits and is void; what the gate refused is offered again when the state has changed."""
    world = AbsorbWorld(9)
    world.populate("ann", "ben", "dot")
    world.nodes["dot"].verify_bytes, world.nodes["dot"].kind = 0, "idle"
    world.join(world.nodes["dot"], None)
    world.absorb_task()
    world.run(2)
    world.absorbed("ann", "large", 9, source_bytes=600_000_000)
    world.absorbed("ben", "idle", 9, gains={0: 0, 1: 0}, source_bytes=600_000_000, groups=(2, 5))
    world.absorb("ann", "giant", source_bytes=4_000_000_000)
    world.absorb("ann", "huge", source_bytes=2_000_000_000)
    world.run(14)
    world.absorbed("ann", "other", 9, source_bytes=600_000_000)
    world.absorbed("ann", "idle", 9, source_bytes=600_000_000, groups=(2, 5))
    return world


def chosen() -> World:
    """Of ann's declared runs one is accepted. Its seed used twice, a seed of its own choice, one before it is there and
    another recipe than declared are no claims."""
    world = World(9)
    world.populate("ann", "ben")
    ann, plans = world.nodes["ann"], []
    for number in range(4):
        plans.append(world.declare(ann, 10**9 + number))
    body = world.publish(world.ripened(plans[0])).body
    world.publish(plans[0], params=bytes(32))
    world.publish(plans[1], seed=bytes(8))
    world.publish(plans[2], recipe={"x": 7})
    late = world.declare(ann, 10**9 + 9)
    world.write(ann, dataclasses.replace(body, intent=late.intent.cid, recipe=late.recipe, params=bytes(32)))
    world.run(8)
    return world


STORIES: dict[str, Callable[[], World]] = {
    story.__name__: story
    for story in (
        accepted,
        lies,
        accuser,
        unopened,
        solo,
        absorbed,
        absorbed_lies,
        absorbed_far,
        absorbed_large,
        chosen,
    )
}


def expected(records: list[Record]) -> dict[str, Any]:
    """What every implementation must find."""
    view = View(records)
    claims = sorted(view.by_instance.values(), key=lambda claim: (claim.round_ack, claim.cid))
    return {
        "rounds": [
            [r.round, r.epoch, r.trust, r.trust_total, r.acknowledged, r.digest.hex()] for r in view.rounds
        ],
        "claims": [
            {
                "cid": str(claim.cid),
                "experiment": str(claim.target.cid),
                "verdict": claim.verdict,
                "round_ack": claim.round_ack,
                "round_drawn": claim.round_drawn,
                "round_settled": claim.round_settled,
                "probes": {
                    who.hex(): {
                        "blocks": list(probe.blocks),
                        "segments": [list(pair) for pair in probe.segments],
                    }
                    for who, probe in sorted(claim.probes.items())
                },
                "findings": {
                    who.hex(): item.finding.word
                    for who, item in sorted(claim.evidence.items())
                    if item.finding
                },
                "named": list(claim.named) if claim.named else None,
                "words": dict(sorted((who.hex(), word) for who, word in claim.ruling.items())),
            }
            for claim in claims
        ],
        "ledger": [
            [e.node.hex(), e.round, e.rule, e.amount, e.total, e.cause.hex() if e.cause else None]
            for e in view.ledger.entries
        ],
        "scores": {key.hex(): account.score for key, account in sorted(view.ledger.accounts.items())},
        "trust": {key.hex(): amount for key, amount in sorted(view.ledger.trust.items())},
        "frontiers": [
            [
                str(task),
                family,
                [[str(s.cid), s.metric, s.runs, s.gain, s.threshold, s.round] for s in frontier.steps],
            ]
            for (task, family), frontier in sorted(view.frontiers.items())
            if frontier.steps
        ],
        "seeds": [
            [str(cid), [str(seal) for seal in witnesses]] for cid, witnesses in sorted(view.witnesses.items())
        ],
        **({} if view.suites or not view.notes else {"no_claims": sorted(str(cid) for cid in view.notes)}),
        **state_of(view),
    }


def state_of(view: View) -> dict[str, Any]:
    """The state, and why records are no claims; nothing where no task takes absorptions."""
    if not view.suites:
        return {}
    digest = view.bank.digest()
    return {
        "state": {
            "digest": digest.hex() if digest else None,
            "members": [str(cid) for cid in view.bank.members()],
            "standings": [
                [str(cid), item.word, [[w.probe, w.pairs, w.gain, w.word] for w in item.weighed], item.round]
                for cid, item in sorted(view.bank.standings.items())
            ],
        },
        "no_claims": sorted(str(cid) for cid in view.notes),
    }


def made(name: str) -> str:
    """A story's file."""
    records = STORIES[name]().records
    story = {
        "story": " ".join((STORIES[name].__doc__ or "").split()),
        "records": [record.raw.hex() for record in records],
        "expected": expected(records),
    }
    return json.dumps(story, indent=1) + "\n"


def told(name: str) -> tuple[list[Record], dict[str, Any]]:
    """A file's records and what it expects."""
    story = json.loads((FOLDER / f"{name}.json").read_text())
    return [parse(bytes.fromhex(raw)) for raw in story["records"]], story["expected"]


def main() -> None:
    """Write or compare."""
    stale = [name for name in STORIES if not same(name)]
    if "--check" in sys.argv[1:]:
        sys.exit(f"not what the code gives: {', '.join(stale)}" if stale else 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / f"{name}.json").write_text(made(name))


def same(name: str) -> bool:
    """Whether a file is there and is what the code gives."""
    path = FOLDER / f"{name}.json"
    return path.is_file() and path.read_text() == made(name)


if __name__ == "__main__":
    main()
