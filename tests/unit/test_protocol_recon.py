"""Range reconciliation against the difference of sets, and against peers that mean no good."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spore_borg.errors import RemoteProtocolError
from spore_borg.limits import RECON_IDS_MAX, RECON_RANGES_MAX, RECON_ROUNDS_MAX
from spore_borg.protocol import recon
from spore_borg.protocol.index import KeyIndex
from spore_borg.protocol.recon import FAN_OUT, GIVE, KEYS, MORE, PAGE_KEYS, PRINT, SKIP, Range

KEY = b"k" * 32


def keys(rng: Random, count: int, per_epoch: int = 100) -> list[bytes]:
    return [(number // per_epoch).to_bytes(8, "big") + rng.randbytes(32) for number in range(count)]


def sync(mine: KeyIndex, theirs: KeyIndex) -> tuple[set[bytes], set[bytes], int, int]:
    """(keys they lack, keys we lack, round trips, bytes)."""
    they_lack, we_lack = set(), set()
    message = recon.begin(mine, KEY)
    rounds = size = 0
    while message:
        raw = recon.encode_ranges(message)
        reply = recon.respond(theirs, KEY, recon.decode_ranges(raw), initiator=False)
        back = recon.encode_ranges(reply.ranges)
        answer = recon.respond(mine, KEY, recon.decode_ranges(back), initiator=True)
        they_lack |= {*reply.need, *answer.have}
        we_lack |= set(answer.need)
        rounds, size = rounds + 1, size + len(raw) + len(back)
        message = answer.ranges
        assert rounds <= RECON_ROUNDS_MAX
    return they_lack, we_lack, rounds, size


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(0, 3_000), st.integers(0, 60), st.integers(0, 60), st.integers(1, 400)
)
def test_it_finds_exactly_the_difference(seed, common, ours, others, per_epoch):
    rng = Random(seed)
    pool = keys(rng, common + ours + others, per_epoch)
    rng.shuffle(pool)
    mine, theirs = set(pool[: common + ours]), {*pool[:common], *pool[common + ours :]}
    they_lack, we_lack, _, _ = sync(KeyIndex(mine), KeyIndex(theirs))
    assert they_lack == mine - theirs
    assert we_lack == theirs - mine


@pytest.mark.parametrize(
    ("count", "swap"), [(10_000, False), (10_000, True), (100_000, False), (100_000, True)]
)
def test_ten_different_cost_at_most_20_kb_and_4_round_trips(count, swap):
    rng = Random(count)
    all_keys = keys(rng, count)
    some = set(rng.sample(all_keys, k=10))
    pair = [KeyIndex(all_keys), KeyIndex(key for key in all_keys if key not in some)]
    they_lack, we_lack, rounds, size = sync(*(pair[::-1] if swap else pair))
    assert they_lack | we_lack == some
    assert rounds <= 4
    assert size <= 20_000


def test_identical_sets_cost_at_most_400_bytes():
    all_keys = keys(Random(3), 100_000)
    assert sync(KeyIndex(all_keys), KeyIndex(all_keys))[2:] <= (1, 400)


@pytest.mark.parametrize("empty_first", [True, False])
def test_answers_are_paged(empty_first):
    full = KeyIndex(keys(Random(4), 10_000))
    pair = (KeyIndex(), full) if empty_first else (full, KeyIndex())
    message = recon.begin(pair[0], KEY)
    seen = set()
    while message:
        reply = recon.respond(pair[1], KEY, message, initiator=False)
        answer = recon.respond(pair[0], KEY, reply.ranges, initiator=True)
        assert len(recon.encode_ranges(reply.ranges)) <= (PAGE_KEYS + 64) * 40
        assert len(answer.have) + len(answer.need) <= 2 * PAGE_KEYS
        seen |= {*answer.have, *answer.need}
        message = answer.ranges
    assert seen == set(full.keys())


def test_the_index_is_a_sorted_set():
    rng = Random(8)
    pool = keys(rng, 5_000, per_epoch=7)
    index = KeyIndex(pool[:1_000])
    order = pool[1_000:]
    rng.shuffle(order)
    for key in order:
        assert index.add(key)
        assert key in index
    assert not index.add(pool[0])
    assert rng.randbytes(40) not in index
    expected = sorted(pool)
    assert index.keys() == expected
    assert len(index) == 5_000
    assert [index.at(place) for place in (0, 2_500, 4_999)] == [expected[0], expected[2_500], expected[4_999]]
    bound = expected[1_234]
    assert (index.lower(bound), index.lower(bound[:20]), index.lower(None)) == (1_234, 1_234, 5_000)
    assert index.fingerprint(10, 4_000, KEY) == KeyIndex(pool).fingerprint(10, 4_000, KEY)
    assert index.fingerprint(10, 4_000, KEY) != index.fingerprint(10, 4_000, b"j" * 32)


def test_both_nonces_and_the_session_make_the_key():
    base = recon.session_key(b"a" * 32, b"b" * 32, b"m", 1)
    others = [
        (b"x" * 32, b"b" * 32, b"m", 1),
        (b"a" * 32, b"x" * 32, b"m", 1),
        (b"a" * 32, b"b" * 32, b"m", 2),
    ]
    assert len({base, *(recon.session_key(*args) for args in others)}) == 4


A, B = (5).to_bytes(8, "big") + b"a" * 32, (5).to_bytes(8, "big") + b"b" * 32


@pytest.mark.parametrize(
    "ranges",
    [
        [Range(B[:9], SKIP), Range(B[:9], SKIP), Range(None, SKIP)],  # a bound twice: no progress
        [Range(None, SKIP), Range(None, SKIP)],  # after the end
        [Range(B[:9], SKIP)],  # does not reach the end
        [Range(None, KEYS, keys=(A, A))],  # a key twice
        [Range(A, KEYS, keys=(B,)), Range(None, SKIP)],  # a key beyond its bound
        [Range(None, 9)],  # unknown mode
    ],
)
def test_crafted_ranges_are_refused(ranges):
    try:
        raw = recon.encode_ranges(ranges)
    except ValueError:
        pytest.fail("the case cannot be written down")
    with pytest.raises(RemoteProtocolError):
        recon.decode_ranges(raw)


def test_limits_are_refused_before_the_memory_is_spent():
    many = b"".join(bytes((SKIP, 0, 1)) for _ in range(RECON_RANGES_MAX)) + bytes((SKIP, 255))
    with pytest.raises(RemoteProtocolError, match="too many"):
        recon.decode_ranges(many)
    with pytest.raises(RemoteProtocolError, match=str(RECON_IDS_MAX)):
        recon.decode_ranges(bytes((KEYS, 0xFF, 0xFF, 0x7F)))
    with pytest.raises(RemoteProtocolError, match="63 bits"):
        recon.decode_ranges(bytes((KEYS, 2)) + (b"\xff" * 8 + b"\x7f" + b"d" * 32) * 2)
    with pytest.raises(RemoteProtocolError, match="minimal"):
        recon.decode_ranges(bytes((KEYS, 0x80, 0x00, 255)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_only_ever_raise_the_peers_error(raw):
    try:
        ranges = recon.decode_ranges(raw)
    except RemoteProtocolError:
        return
    index = KeyIndex(keys(Random(1), 200))
    answer = recon.respond(index, KEY, ranges, initiator=True)
    assert len(answer.ranges) <= RECON_RANGES_MAX


def test_the_initiator_may_not_give():
    with pytest.raises(RemoteProtocolError, match="give"):
        recon.respond(KeyIndex(), KEY, [Range(None, GIVE, keys=(A,))], initiator=False)


def test_a_liar_that_never_agrees_gets_bounded_answers():
    index = KeyIndex(keys(Random(2), 20_000))
    step = [Range(index.at(place), PRINT, b"?" * 16) for place in range(4, 20_000, 5)][: RECON_RANGES_MAX - 1]
    answer = recon.respond(index, KEY, [*step, Range(None, MORE)], initiator=False)
    assert len(recon.encode_ranges(answer.ranges)) <= (PAGE_KEYS + FAN_OUT * 32) * 45
    assert answer.hashed_bytes <= 40 * len(index) * 2


VECTORS = json.loads((Path(__file__).parents[2] / "spec" / "vectors" / "sync" / "recon.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_the_vectors_are_followed_byte_for_byte(case):
    mine, theirs = (KeyIndex(map(bytes.fromhex, case[side])) for side in ("mine", "theirs"))
    key = bytes.fromhex(case["key"])
    said = recon.begin(mine, key)
    for number, expected in enumerate(case["messages"]):
        assert recon.encode_ranges(said).hex() == expected
        heard = recon.decode_ranges(bytes.fromhex(expected))
        index = mine if number % 2 else theirs
        said = recon.respond(index, key, heard, initiator=bool(number % 2)).ranges
    assert not said
