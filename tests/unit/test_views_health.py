"""Ψ and its parts: the arithmetic against decimals, the worlds that the measure was made for, and real folds."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from spore_borg.views import health
from spore_borg.views.health import DIRECTIONS_MIN, PPM, Health, diversity, exp2, log2, psi
from spore_borg.views.reduce import View
from tests.world import World

# name: V, S, D, L in hundredths, and what Ψ must be
WORLDS = {
    "healthy": (89, 99, 91, 47, 78),
    "two of eight lie": (46, 100, 96, 47, 67),
    "six of eight never verify": (2, 100, 46, 8, 15),
    "split in two": (89, 43, 92, 49, 64),
    "one direction": (86, 100, 32, 48, 60),
    "mined out": (89, 100, 87, 12, 55),
    "alone": (0, 0, 90, 50, 0),
}


@pytest.mark.parametrize("name", WORLDS)
def test_psi_of_the_worlds_that_it_was_made_for(name: str) -> None:
    *parts, want = WORLDS[name]
    value = psi(part * PPM // 100 for part in parts)
    assert value is not None
    assert abs(value / PPM - want / 100) < 0.016  # the parts are rounded too


def test_one_dead_part_is_a_dead_whole_and_an_unknown_one_an_unknown() -> None:
    assert psi((0, None, PPM, PPM)) == 0
    assert psi((PPM, None, PPM, PPM)) is None
    assert psi((PPM,) * 4) == PPM


def test_logarithms_and_powers_agree_with_the_real_ones() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        number = rng.randrange(1, 1 << rng.randrange(1, 200))
        assert abs(log2(number) / 2**32 - math.log2(number)) < 1e-8
        exponent = rng.randrange(1 << 37)
        assert exp2(exponent) / 2**32 == pytest.approx(2 ** (exponent / 2**32), rel=1e-8)


def test_diversity_is_what_its_formula_says() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(100):
        gains = {str(i): rng.randrange(1, 10**6) for i in range(rng.randrange(1, 20))}
        total = sum(gains.values())
        entropy = -sum(g / total * math.log(g / total) for g in gains.values())
        want = math.log(1 + math.exp(entropy)) / math.log(1 + max(DIRECTIONS_MIN, len(gains)))
        assert diversity(gains) == pytest.approx(want * PPM, abs=3)
    assert diversity({"one": 7}) == pytest.approx(math.log(2) / math.log(9) * PPM, abs=3)
    assert diversity(dict.fromkeys("abcdefgh", 5)) == pytest.approx(PPM, abs=3)


def improve(world: World, names: list[str], quality: list[int]) -> View:
    """Every node in turn beats the best by much, as often as there are values."""

    def act(view: View) -> None:
        if quality and world.epoch % 2:
            steps = view.frontiers[world.task, "CPU_TEST"].steps
            node = world.nodes[names[len(quality) % len(names)]]
            world.plans.append(world.declare(node, quality.pop(0), steps[-1].cid if steps else None))

    view = world.view()
    for _ in range(36):
        view = world.tick(act)
    return view


def oracle_synchrony(view: View, at: int) -> Fraction:
    """The mean over ordered pairs, walked pair by pair."""
    rounds, dag = view.rounds, view.dag
    live = range(rounds[max(0, at - health.LIVE_ROUNDS + 1)].epoch, rounds[at].epoch + 1)
    seals = {who: position for epoch in live for who, position in dag.seals.get(epoch, {}).items()}
    until = min(dag.records[p].epoch for p in seals.values())
    first = rounds[max(0, at - health.RECENT)].epoch
    shares = []
    for who in seals:
        own = {p for p, r in enumerate(dag.records) if r.author == who and first <= r.epoch < until}
        for other, position in seals.items():
            if other != who and own:
                past, stack = {position}, [position]
                while stack:
                    for p in dag.past[stack.pop()]:
                        if p not in past:
                            past.add(p)
                            stack.append(p)
                shares.append(Fraction(len(own & past), len(own)))
    return sum(shares, Fraction(0)) / len(shares)


def test_parts_of_a_mesh_that_works() -> None:
    world = World(3)
    world.populate("a", "b", "c")
    names = ["a", "b", "c"]
    view = improve(world, names, [10**9 - n * 10**8 for n in range(6)])
    rows = {(r["round"], r["part"]): r for r in health.tables(view)}
    last = view.round_settled
    found = {part: rows[last, part] for part in ("psi", *health.PARTS)}
    assert found["verified"]["a"] == found["verified"]["b"] > 0
    assert found["verified"]["value"] == PPM
    assert found["synchrony"]["a"] == 4
    assert found["synchrony"]["value"] == PPM  # everyone seals what everyone has published
    assert found["diversity"]["a"] == 2  # the field x, and the operator of steps that had no base yet
    assert (
        math.log(2) / math.log(9) * PPM - 3
        < found["diversity"]["value"]
        <= math.log(3) / math.log(9) * PPM + 3
    )
    assert found["learning"]["value"] is None  # no span before this one
    assert found["psi"]["value"] is None
    assert all(type(v) in (int, str, type(None)) for row in rows.values() for v in row.values())


def test_synchrony_agrees_with_a_walk_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(5)
    world.populate("a", "b", "c")
    for turn in range(12):  # c sleeps now and then, and a writes on what it alone has seen
        world.nodes["c"].kind = "asleep" if turn % 3 else "honest"
        world.tick()
        if turn % 2:
            node = world.nodes["a"]
            seal = max((r for r in world.records if r.author == node.key.public), key=lambda r: r.seq)
            world.seal(node, world.view())
            world.heads.add(seal.cid)
    view = world.view()
    found = Health(view)
    for at in range(2, view.round + 1):
        part = found.synchrony(at)
        assert part.value is not None
        assert abs(part.value - oracle_synchrony(view, at) * PPM) <= 2, at


def test_learning_compares_two_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SPAN", 6)
    world = World(7)
    world.populate("a", "b")
    view = improve(world, ["a", "b"], [10**9 - n * 10**8 for n in range(8)])
    found = Health(view)
    values = [found.learning(at).value for at in range(view.round + 1)]
    assert None in values
    assert any(value is not None and 0 < value < PPM for value in values)
    assert values[-1] is None or values[-1] == 0  # nothing was run, or nothing gained, at the end


def test_a_node_alone_is_dead() -> None:
    world = World(9)
    world.populate()
    view = improve(world, ["root"], [10**9 - n * 10**8 for n in range(4)])
    last = health.tables(view)[-5:]
    assert {row["part"]: row["value"] for row in last}["psi"] == 0


def test_points_are_bounded_and_settled() -> None:
    world = World(2)
    world.populate("a")
    view = improve(world, ["a"], [])
    assert health.points(view)[-1] == view.round_settled
    assert len(health.points(view)) <= health.POINTS_MAX
    assert health.points(View(())) == []
