"""Same set, same bytes: the views against shuffles, duplicates, gaps and late arrivals, and against oracles."""

from __future__ import annotations

import functools
import json
import random
from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spore_borg.records import bodies
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record
from spore_borg.views import frontier as fr
from spore_borg.views import reputation as rep
from spore_borg.views.reduce import SETTLED_AFTER, View
from spore_borg.views.rows import tables
from tests.world import BLOCKS, SEGMENTS, VAL_BYTES, World, h

KINDS = {"b": "lazy", "d": "metric", "e": "process", "f": "mute", "g": "closed"}


@functools.cache
def busy(seed: int) -> tuple[tuple[Record, ...], bytes]:
    """A mesh of honest nodes, liars, sleepers and a fork of three, some epochs after its beginning."""
    world = World(seed)
    world.populate("a", "b", "c", "d", "e", "f", "g", **KINDS)
    names = ["a", "c", "d", "e", "g", "a", "c"]

    def act(view: View) -> None:
        if names and world.rng.random() < 0.6:
            node = world.nodes[names.pop(0)]
            if not view.ledger.account(node.key.public).banned:
                steps = view.frontiers[world.task, "CPU_TEST"].steps
                base = steps[-1].cid if steps else None
                quality, label = 10**9 - len(world.records) * 10**6, len(world.records)
                world.plans.append(world.declare(node, quality, base, label))

    for _ in range(16):
        world.tick(act)
        sleeper = world.nodes["c"]
        sleeper.kind = "asleep" if world.rng.random() < 0.2 else "honest"
    choosing(world)
    fork(world)
    world.run(3)
    return tuple(world.records), world.nodes["root"].key.public


def choosing(world: World) -> None:
    """Attempts to choose a seed; one intent with two experiments, the first of which depends on no order of arrival."""
    plan = world.ripened(world.declare(world.nodes["a"], 10**9, label="declared"))
    world.publish(plan, seed=bytes(8))
    world.publish(plan)
    other = world.ripened(world.declare(world.nodes["root"], 10**9, label="another"))
    world.publish(other, recipe={"x": 1})


def fork(world: World) -> None:
    """Three records with one number by one author; the first is named by nobody."""
    node, heads = world.nodes["f"], set(world.heads)
    seq, prev = node.seq, node.prev
    made = []
    for number in range(3):
        node.seq, node.prev, world.heads = seq, prev, set(heads)
        made.append(world.write(node, bodies.Intent(task=world.task, bases=(), recipe=h(number), until=1)))
    world.heads = heads | {record.cid for record in made[1:]}
    node.kind = "asleep"


def picture(view: View, me: bytes) -> str:
    """Everything that faces read, with rows in one order."""
    seq = {cid: number for number, cid in enumerate(sorted(view.dag.index))}
    rows = tables(view, seq, me)
    return json.dumps({name: sorted(map(repr, table)) for name, table in rows.items()})


def closed(records: list[Record]) -> list[Record]:
    """The records whose whole past is among them; by its definition, not by the fold's code."""
    there = {record.cid: record for record in records}
    while gone := [cid for cid, record in there.items() if any(past not in there for past in record.past())]:
        for cid in gone:
            del there[cid]
    return list(there.values())


@pytest.mark.parametrize("round_", range(3))
def test_any_order_with_duplicates_gives_the_same_bytes(round_: int, rng: random.Random) -> None:
    records, me = busy(round_)
    whole = View(records)
    assert {claim.verdict for claim in whole.by_instance.values()} >= {"accepted", "refuted"}
    assert any(account.banned for account in whole.ledger.accounts.values())
    expected = picture(whole, me)
    for _ in range(3):
        again = [*records, *rng.choices(records, k=len(records) // 3)]
        rng.shuffle(again)
        view = View(again)
        assert view.rounds == whole.rounds
        assert view.ledger.entries == whole.ledger.entries
        assert picture(view, me) == expected


@pytest.mark.parametrize("lateness", [0, 1, 3, 30])
def test_a_fold_that_goes_on_is_the_fold_of_all(lateness: int, rng: random.Random) -> None:
    """Records come in batches, some of them ``lateness`` epochs late: going on equals beginning anew."""
    records, me = busy(lateness % 3)
    order = sorted(
        records,
        key=lambda r: (r.epoch + (rng.randint(0, lateness) if rng.random() < 0.1 else 0), rng.random()),
    )
    view, before, at = View(()), None, 0
    while at < len(order):
        size = rng.choice([1, 5, 20, 60])
        if rng.random() < 0.1:
            before = (view, picture(view, me))
        view = View([*order[at : at + size], *rng.choices(order[:at] or order, k=2)], view)
        at += size
        if rng.random() < 0.2:
            whole = View(view.dag.records)
            assert (view.rounds, view.ledger.entries) == (whole.rounds, whole.ledger.entries)
            assert picture(view, me) == picture(whole, me)
    assert picture(View((), view), me) == picture(view, me) == picture(View(records), me)
    if before is not None:
        assert picture(before[0], me) == before[1]  # going on leaves the view before as it was


def test_a_set_with_gaps_folds_like_its_closed_part(rng: random.Random) -> None:
    records, me = busy(0)
    for share in (0.002, 0.01, 0.05):
        kept = [record for record in records if rng.random() > share]
        rng.shuffle(kept)
        assert picture(View(kept), me) == picture(View(closed(kept)), me)


def test_two_nodes_with_parts_of_the_set_converge(rng: random.Random) -> None:
    records, me = busy(1)
    one = [record for record in records if rng.random() < 0.7]
    two = [record for record in records if record not in one or rng.random() < 0.5]
    rng.shuffle(two)
    assert picture(View([*one, *two]), me) == picture(View([*two, *one]), me) == picture(View(records), me)


def test_settled_rounds_stay_when_records_come_an_epoch_late(rng: random.Random) -> None:
    """A node whose seals of the newest epoch have not arrived yet agrees on all that is settled."""
    records, _ = busy(2)
    whole = View(records)
    newest = max(record.epoch for record in records)
    for _ in range(5):
        late = {r.cid for r in records if r.epoch >= newest - 1 and rng.random() < 0.4}
        early = View(record for record in records if record.cid not in late)
        settled = early.round_settled
        assert settled >= newest - 2 * SETTLED_AFTER - 2
        assert early.rounds[: settled + 1] == whole.rounds[: settled + 1]


def test_a_prefix_of_epochs_is_a_prefix_of_rounds() -> None:
    records, _ = busy(0)
    whole = View(records)
    for epoch in range(5, max(record.epoch for record in records)):
        part = View(record for record in records if record.epoch <= epoch)
        assert part.rounds == whole.rounds[: len(part.rounds)]


def toy(sigma: int, gain_min: int) -> bodies.Task:
    """A task with this noise and this least gain."""
    return bodies.Task(
        name="t", metric="m", direction="min", unit="u", sigma=sigma, gain_min=gain_min, budget_flops=1,
        segments=SEGMENTS, blocks=BLOCKS, block_tokens=1, val_bytes=VAL_BYTES, tolerance=0, data=Cid.of(b"", RAW),
        evaluator=bytes(32), spec={}, baseline={},
    )  # fmt: skip


@given(st.integers(0, 10**12), st.integers(0, 10**10), st.integers(1, 5000), st.integers(1, 5000))
def test_threshold_is_the_formula(sigma: int, gain_min: int, runs: int, rivals: int) -> None:
    limit = fr.threshold(toy(sigma, gain_min), runs, rivals)
    square = Fraction(9 * sigma * sigma) * (Fraction(1, runs) + Fraction(1, rivals))
    assert limit >= gain_min and limit * limit >= square
    assert limit == gain_min or (limit - 1) ** 2 < square
    getcontext().prec = 60
    exact = 3 * sigma * (Decimal(1) / runs + Decimal(1) / rivals).sqrt()
    assert abs(max(Decimal(gain_min), exact) - limit) <= 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * 10**9)), min_size=1, max_size=30))
def test_frontier_pools_by_recipe_and_each_step_gains_more_than_the_noise(
    runs: list[tuple[int, int]],
) -> None:
    task, frontier = toy(5_000_000, 10_000_000), fr.Frontier()
    pools: dict[bytes, list[int]] = {}
    for number, (recipe, metric) in enumerate(runs):
        key = bytes([recipe])
        pools.setdefault(key, []).append(metric)
        before = list(frontier.steps)
        step, why = frontier.offer(task, Cid.of(str(number).encode(), RAW), key, b"", metric, 0)
        assert why and step == (len(frontier.steps) > len(before))
        if step and before:
            rival = pools[before[-1].recipe]
            gain = sum(rival) // len(rival) - sum(pools[key]) // len(pools[key])
            assert gain == frontier.steps[-1].gain and gain > fr.threshold(task, len(pools[key]), len(rival))
    assert frontier.runs == pools


AMOUNTS = st.integers(0, 1 << 24)
EVENTS = st.one_of(
    st.tuples(st.just("earn"), st.integers(0, 4), AMOUNTS),
    st.tuples(st.just("lose"), st.integers(0, 4), st.sampled_from([(98, 100), (1, 2), (9, 10), (0, 1)])),
    st.tuples(st.just("ban"), st.integers(0, 4), st.none()),
    st.tuples(st.just("close"), st.just(0), st.none()),
)


@given(st.lists(EVENTS, max_size=60))
def test_reputation_is_integers_and_never_negative(events: list[tuple[str, int, object]]) -> None:
    ledger = rep.Ledger(roots=(b"\0", b"\1"))
    for what, who, detail in events:
        node = bytes([who])
        if what == "earn":
            ledger.earn(node, "test", int(str(detail)), None, "")
        elif what == "lose":
            assert isinstance(detail, tuple)
            ledger.lose(node, "test", detail, None, "")
        elif what == "ban":
            ledger.ban(node, "test", b"cause", "")
        else:
            ledger.round += 1
            ledger.close_round(worked=True)
    ledger.derive()
    for account in ledger.accounts.values():
        assert type(account.score) is int and account.score >= 0 and account.frauds >= 0
        assert not account.banned or account.score == 0
    assert all(type(amount) is int and amount > 0 for amount in ledger.trust.values())
    for node, account in ledger.accounts.items():
        booked = sum(entry.amount for entry in ledger.entries if entry.node == node)
        assert booked == account.booked
        assert not account.banned or node not in ledger.trust
    alive = [root for root in ledger.roots if not ledger.account(root).banned]
    total, rooted = sum(ledger.trust.values()), sum(ledger.trust.get(root, 0) for root in alive)
    assert not alive or 3 * (rooted + 3 * len(alive)) >= total


@given(st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 1 << 40), max_size=12))
def test_influence_never_exceeds_a_quarter(trust: dict[bytes, int]) -> None:
    capped = rep.influence(trust)
    assert all(
        0 <= amount <= trust[node] and 4 * amount <= sum(trust.values()) for node, amount in capped.items()
    )
