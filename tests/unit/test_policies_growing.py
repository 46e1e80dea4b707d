"""What a node adds to a lattice: it reads on, joins, searches, in its own rows; nobody runs what was run."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from explorer.pages.reading import reading
from spore_borg.policies import growing
from spore_borg.policies.operators import Trial, space_of
from spore_borg.policies.proposer import Situation
from spore_borg.records.bodies import Open, Task
from spore_borg.records.cid import RAW, Cid
from spore_borg.views import evidence as ev
from spore_borg.views.lattices import RANGES, READABLE, is_lattice, slices_of
from spore_borg.views.rows import changed
from tests.world import World
from workspace import lattice, lattice_recipe, radicals, sketch
from workspace.lattice_data import spec

SPACE = space_of(lattice_recipe, {})
KEYS = [bytes([n]) * 32 for n in range(3)]


def cid(number: int) -> Cid:
    return Cid.of(number.to_bytes(4, "big"), RAW)


def trial(number: int, metric: int | None, *bases: Trial, accepted: bool = True, **changes: Any) -> Trial:
    recipe = {**lattice_recipe.BASELINE, **changes, "bases": ",".join(params(base.cid) for base in bases)}
    return Trial(
        cid(number),
        recipe,
        metric,
        KEYS[0],
        accepted,
        "read",
        tuple(base.cid for base in bases),
        None,
        number,
    )


def params(which: Cid) -> str:
    return which.digest.hex()


def situation(trials: list[Trial], best: Trial | None, key: bytes = KEYS[1], **more: Any) -> Situation:
    taken = frozenset(SPACE.digest(one.recipe) for one in trials)
    return Situation(
        SPACE, dict(lattice_recipe.BASELINE), trials, () if best is None else (best,), taken, 0, 100_000, 50, key,
        **more,
    )  # fmt: skip


def proposed(now: Situation, ranges: int, seed: int) -> Any:
    known = {one.cid: params(one.cid) for one in now.trials if one.metric is not None}
    return growing.propose(now, ranges, known, random.Random(seed))


def test_constants_agree_with_the_harness() -> None:
    assert (READABLE, RANGES) == (lattice.READABLE, radicals.RANGES)
    for first, count in ((0, 1), (60, 4), (62, 4)):
        recipe = {**lattice_recipe.BASELINE, "slice": first, "slices": count}
        assert slices_of(recipe) == lattice_recipe.slices_of(recipe)


def test_the_first_run_reads_somewhere_and_the_next_read_on() -> None:
    starts = set()
    for key in KEYS:
        first = proposed(situation([], None, key), 0b1010, 1)
        assert first.operator == "baseline" and first.recipe["rows"] == 0b1010 and first.recipe["bases"] == ""
        starts.add(first.recipe["slice"])
    assert len(starts) > 1  # nodes begin at different places
    trials, read = [trial(0, 5_000, slice=7)], {7}
    for number in range(1, 30):
        now = situation(trials, trials[-1])
        found = proposed(now, 255, number)
        assert found.bases[0] == trials[-1].cid and found.recipe["bases"].split(",")[0] == params(
            trials[-1].cid
        )
        news = set(slices_of(found.recipe)) - read
        assert news, "it reads what its base has read"
        read |= news
        trials.append(
            Trial(cid(number), found.recipe, 5_000 - number, KEYS[0], True, found.operator, found.bases)
        )
    assert len(read) >= 30


def test_every_proposal_is_valid_new_and_of_the_own_rows() -> None:
    base = trial(1, 4_000, slice=1)
    other = trial(2, 4_100, slice=30, smoothing=99)
    trials = [base, other, trial(3, None, slice=8), trial(4, 3_000, slice=9, accepted=False)]
    seen: Counter[str] = Counter()
    for seed in range(120):
        found = proposed(situation(trials, base), 0b110, seed)
        recipe = lattice_recipe.validate(found.recipe)
        assert SPACE.digest(recipe) not in situation(trials, base).taken
        assert recipe["rows"] == 0b110 and len(found.why) <= 280
        assert lattice_recipe.bases_of(recipe) == tuple(params(one) for one in found.bases)
        seen[found.operator.partition(":")[0]] += 1
        if found.operator == "merge":
            assert found.bases == (base.cid, other.cid)
    assert {"read", "merge", "deck", "mutate", "random"} <= set(seen), seen


def test_what_a_lattice_has_read_follows_from_its_line() -> None:
    a = trial(1, 4_000, slice=1, rows=1)
    b = trial(2, 3_900, a, slice=1, slices=2, rows=2)
    c = trial(3, 3_800, slice=62, slices=2)
    d = trial(4, 3_700, b, c, slice=5)
    found = growing.reads([d, c, b, a])
    assert found[d.cid] == {1: 3, 2: 2, 62: 255, 0: 255, 5: 255}
    assert growing.unread(found[a.cid], 3) == 2 * READABLE - 1
    loop = [trial(n, 3_000, slice=n % 63) for n in range(3_000)]
    chain = [loop[0]]
    for one in loop[1:]:
        chain.append(Trial(one.cid, one.recipe, 1, KEYS[0], True, "read", (chain[-1].cid,)))
    assert (
        len(growing.reads(list(reversed(chain)))[chain[-1].cid]) == READABLE
    )  # deep lines need no deep stack


def test_when_everything_is_read_settings_are_still_searched() -> None:
    chain = [trial(0, 5_000, slice=0, slices=4)]
    for number in range(1, 16):
        chain.append(trial(number, 5_000 - number, chain[-1], slice=4 * number % 63, slices=4))
    assert growing.unread(growing.reads(chain)[chain[-1].cid], 255) == 0
    operators = {proposed(situation(chain, chain[-1]), 255, seed).operator for seed in range(30)}
    assert "read" not in operators and operators


def test_ranges_have_one_writer_each_and_nobody_has_none() -> None:
    world = World(41)
    world.populate("a", "b", "c")
    view = world.view()
    turns = {
        node.key.public: [
            number for number in range(RANGES)
            if growing.is_my_turn(view, node.key.public, f"lattice/{world.task}/{number}")
        ]
        for node in world.nodes.values()
    }  # fmt: skip
    assert sorted(number for mine in turns.values() for number in mine) == list(range(RANGES))
    for who, mine in turns.items():
        owned = growing.own_ranges(view, who, world.task)
        assert owned == sum(1 << number for number in mine) if mine else owned.bit_count() == 1


def claim_of(tolerance: int) -> tuple[Any, Task, Open, Any]:
    made = spec(16_635, 1_024)
    task = Task(
        **{name: made[name] for name in ("name", "metric", "direction", "unit", "sigma", "gain_min", "budget_flops",
                                         "segments", "blocks", "block_tokens", "val_bytes")},
        tolerance=tolerance, data=cid(1), evaluator=bytes(32), spec={"kind": "lattice"}, baseline={},
    )  # fmt: skip
    opening = Open(
        target=cid(2), commits=(), loss_secret=bytes(32), losses=(10**12,) * 64, state_secret=bytes(32),
        digests=(bytes(32),) * 11, tail=bytes(32), inner=(),
    )  # fmt: skip
    return None, task, opening, cid(3)


@pytest.mark.parametrize(
    ("tolerance", "off", "word"), [(0, 0, "clear"), (0, 1, "fraud"), (1_000, 1, "clear")]
)
def test_of_what_is_exact_no_difference_is_honest(tolerance: int, off: int, word: str) -> None:
    from spore_borg.records.bodies import AttestReveal

    claim, task, opening, target = claim_of(tolerance)
    reveal = AttestReveal(
        target=target, commit=target, nonce=bytes(16), params=None, losses=((5, 10**12 + off),), segments=(),
        steps=(), cpu_ms=0,
    )  # fmt: skip
    assert ev.named_word(claim, task, opening, (ev.OUTCOME, 5), reveal) == word
    assert is_lattice(task)


def test_the_explorer_reads_the_header_and_nothing_else(tmp_path: Path) -> None:
    one = lattice.Published(lattice.empty(), (100, 60, 50), bytes(32))
    seen = sketch.empty()
    seen[:80] = 1
    raw = lattice.Published(lattice.Lattice(one.lattice.keys, one.lattice.counts, one.lattice.read, seen), one.base,
                            one.recipe).encode(9)  # fmt: skip
    (tmp_path / "blobs").mkdir()
    name = str(Cid.of(raw, RAW))
    path = tmp_path / "blobs" / name
    recipe = dict(lattice_recipe.BASELINE)
    assert reading(tmp_path, name, recipe) is None  # not here
    path.write_bytes(raw[:2_000])  # the rest may be missing
    found = reading(tmp_path, name, recipe)
    assert found is not None and (found.characters, found.base_characters, found.own_runs) == (0, 100, 50)
    assert found.runs == sketch.count(seen) and found.new_runs == found.runs - 60
    assert found.known_runs == 50 - found.new_runs
    assert reading(tmp_path, name, {"lr": 1}) is None and reading(tmp_path, "../x", recipe) is None
    for odd in (b"", b"\xff" * 9, (1 << 40).to_bytes(8, "little"), raw[:100], raw.replace(b"lattice/1", b"lattice/2"),
                raw.replace(b'"entries":"0"', b'"entries":"x"'), (4).to_bytes(8, "little") + b"[[[["):  # fmt: skip
        path.write_bytes(odd)
        assert reading(tmp_path, name, recipe) is None


def test_the_names_of_the_bases_are_no_change_of_the_recipe() -> None:
    before, after = dict(lattice_recipe.BASELINE), {**lattice_recipe.BASELINE, "bases": "ab" * 32, "slice": 9}
    assert changed(before, after) == [["slice", 0, 9]]
