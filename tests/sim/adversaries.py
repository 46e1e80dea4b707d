"""Attacks on the mesh with the real views, records and duties; only the training is made up.

``python -m tests.sim.adversaries [--nodes 16] [--epochs 40] [--seed 1]`` prints one line per case of the table in
PROTOCOL §5: false records accepted, attackers' influence, verification cost per unit of honest work.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from spore_borg.views.reduce import View
from spore_borg.views.reputation import influence
from tests.world import Plan, SimNode, World

RATE = 0.15  # experiments per node and epoch
RIPENING_EPOCHS = 4  # at the end, for the runs that are declared last
SLEEP_EPOCHS = 16  # so long a sleeper is honest
CASES = {  # name: (part of the nodes, what they do, invited)
    "no attack": (0.0, "honest", True),
    "lazy 30 %": (0.3, "lazy", True),
    "Sybil 50 %": (0.5, "ring", False),
    "ring inside 30 %": (0.3, "ring", True),
    "sleeper 30 %": (0.3, "sleeper", True),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case came to. Shares are parts of 1; cost is in runs verified per honest run."""

    false_claims: int
    false_accepted: int
    influence: float
    cost: float
    honest_claims: int
    honest_accepted: int
    honest_refuted: int
    records: int


def simulate(case: str, nodes: int, epochs: int, seed: int) -> Outcome:
    """Run one case and count."""
    part, kind, invited = CASES[case]
    world = World(seed)
    bad = [f"bad{n}" for n in range(round(part * nodes))]
    good = [f"good{n}" for n in range(nodes - 1 - len(bad))]
    world.populate(*good, *(bad if invited else ()))
    for name in bad:
        if not invited:
            world.join(SimNode(name, seed), None)
        world.nodes[name].kind = "honest" if kind == "sleeper" else kind
    started = world.epoch
    plans: list[Plan] = []

    def act(view: View) -> None:
        for name, node in world.nodes.items():
            rate = RATE if node.kind != "lazy" else 0.0
            if view.ledger.account(node.key.public).banned or world.rng.random() >= rate:
                continue
            quality = 10**9 - (world.epoch - started) * 4 * 10**6 - world.rng.randint(0, 40 * 10**6)
            plans.append(world.declare(node, quality, None, label=(name, world.epoch)))
            world.plans.append(plans[-1])

    view = View(world.records)
    for epoch in range(epochs + RIPENING_EPOCHS):
        if kind == "sleeper" and epoch == SLEEP_EPOCHS:
            for name in bad:
                world.nodes[name].kind = "ring"
        view = world.tick(act if epoch < epochs - 8 else None)
    return count(world, view, set(bad), {plan.record.cid for plan in plans if plan.record and plan.lie})


def count(world: World, view: View, bad: set[str], lies: set[object]) -> Outcome:
    """The figures of a finished run."""
    verdict = {cid: claim.verdict for cid, claim in view.claims.items()}
    true = [cid for cid in verdict if cid not in lies]
    capped = influence(view.ledger.trust)
    evil = sum(capped.get(world.nodes[name].key.public, 0) for name in bad)
    checked = sum(node.checked for name, node in world.nodes.items() if name not in bad)
    trained = sum(node.trained for name, node in world.nodes.items() if name not in bad)
    return Outcome(
        len(lies), sum(verdict.get(cid) == "accepted" for cid in verdict if cid in lies),
        evil / max(1, sum(capped.values())), checked / max(1.0, trained), len(true),
        sum(verdict[cid] == "accepted" for cid in true), sum(verdict[cid] == "refuted" for cid in true),
        len(world.records),
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"nodes {options.nodes}, epochs {options.epochs}, seed {options.seed}")
    print("| case | false accepted | influence | cost | honest accepted | honest refuted | records |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        o = simulate(case, options.nodes, options.epochs, options.seed)
        print(
            f"| {case} | {o.false_accepted} of {o.false_claims} | {o.influence:.3f} | {o.cost:.2f} | "
            f"{o.honest_accepted} of {o.honest_claims} | {o.honest_refuted} | {o.records} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
