"""The envelope and the bodies: every rule broken alone, the bounds hit exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from spore_borg.limits import RECORD_SIZE_BYTES_MAX
from spore_borg.records import admit, bodies, canonical, envelope, keys
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.reasons import Missing, Refused
from tests.strategies import SIGNERS

KEY = SIGNERS[0]
D32 = bytes(32)
GENESIS_BODY = bodies.Genesis(
    name="m", roots=(KEY.public,), time_ms=0, epoch_ms=1000, nonce=bytes(16), params={"a": 1}
)
GENESIS = envelope.sign(KEY, GENESIS_BODY, mesh=None, seq=0, prev=None, epoch=0, parents=())
LINK = Cid.of(b"something")


def make(body: bodies.Body, **other: Any) -> envelope.Record:
    context: dict[str, Any] = {"mesh": GENESIS.cid, "seq": 1, "prev": GENESIS.cid, "epoch": 1, **other}
    return envelope.sign(KEY, body, **{"parents": (GENESIS.cid,), **context})


def refused(body: bodies.Body, **other: Any) -> str:
    with pytest.raises(Refused) as caught:
        make(body, **other)
    return caught.value.code


def code(raw: bytes, *, trusted: bool = False) -> str:
    with pytest.raises(Refused) as caught:
        envelope.parse(raw, trusted=trusted)
    return caught.value.code


SEAL = bodies.Seal(value=D32, round=0, digest=None)


def test_a_record_says_what_was_signed() -> None:
    record = make(SEAL, parents=(LINK, GENESIS.cid, LINK))
    assert (record.kind, record.author, record.seq, record.epoch) == ("seal", KEY.public, 1, 1)
    assert record.body == SEAL
    assert record.parents == tuple(sorted((LINK, GENESIS.cid)))
    assert record.mesh_cid == GENESIS.cid == GENESIS.mesh_cid
    assert GENESIS.mesh is None
    assert record.past() == record.parents
    assert make(SEAL, prev=Cid.of(b"other")).past() == (GENESIS.cid, Cid.of(b"other"))
    assert GENESIS.past() == ()


def test_signing_is_deterministic_so_a_record_sent_twice_is_one_record() -> None:
    assert make(SEAL) == make(SEAL)
    assert make(SEAL).cid == make(SEAL).cid


def test_the_mesh_is_signed_so_a_record_cannot_move() -> None:
    record = make(SEAL)
    value = canonical.decode(record.raw)
    assert code(canonical.encode({**value, "mesh": LINK})) == "bad-signature"
    with pytest.raises(Refused) as caught:
        admit.check_context(record, LINK, lambda cid: admit.Stub(KEY.public, 0, 0), 1)
    assert caught.value.code == "wrong-mesh"


def test_trusted_bytes_skip_the_signature_and_nothing_else() -> None:
    record = make(SEAL)
    value = canonical.decode(record.raw)
    forged = canonical.encode({**value, "sig": bytes(64)})
    assert code(forged) == "bad-signature"
    assert envelope.parse(forged, trusted=True).body == SEAL
    assert code(canonical.encode({**value, "body": {}}), trusted=True) == "bad-body"
    assert code(canonical.encode({**value, "v": 3}), trusted=True) == "bad-version"
    assert code(record.raw + b"\0", trusted=True) == "not-cbor"


def test_the_size_limit_is_exact() -> None:
    def big(filler: int) -> bodies.Task:
        full = {f"{number:02}" + "k" * 250: "v" * 255 for number in range(64)}
        rest = {f"{number:02}" + "k" * 250: "v" * 255 for number in range(62)}
        return bodies.Task(
            name="", metric="", direction="min", unit="", sigma=0, gain_min=0, budget_flops=1, segments=1, blocks=1,
            block_tokens=1, val_bytes=1, tolerance=0, data=LINK, evaluator=D32, spec=full,
            baseline={**rest, "x" * 100: "y" * (filler // 2), "z" * 101: "y" * (filler - filler // 2)},
        )  # fmt: skip

    room = RECORD_SIZE_BYTES_MAX - len(make(big(200)).raw)
    assert 0 <= room <= 300
    assert len(make(big(200 + room)).raw) == RECORD_SIZE_BYTES_MAX
    assert refused(big(201 + room)) == "too-large"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"parents": ()}, "bad-parents"),
        ({"parents": tuple(Cid.of(bytes((n,))) for n in range(65))}, "bad-parents"),
        ({"parents": (Cid.of(b"", RAW),)}, "bad-envelope"),
        ({"prev": Cid.of(b"", RAW)}, "bad-envelope"),
        ({"mesh": Cid.of(b"", RAW)}, "bad-envelope"),
        ({"mesh": None}, "bad-envelope"),
        ({"seq": 0}, "bad-sequence"),
        ({"prev": None}, "bad-sequence"),
        ({"seq": True}, "bad-envelope"),
        ({"seq": -1}, "bad-envelope"),
        ({"epoch": -1}, "bad-envelope"),
        ({"epoch": (1 << 40) + 1}, "bad-envelope"),
        ({"epoch": 1.0}, "forbidden-type"),
        ({"epoch": 1 << 64}, "forbidden-type"),
    ],
    ids=str,
)
def test_what_may_not_be_signed_is_refused_to_its_own_author(other: dict[str, Any], expected: str) -> None:
    assert refused(SEAL, **other) == expected


def _samples() -> dict[str, Any]:
    return {
        "integer over 63 bits": dataclasses.replace(SEAL, round=1 << 63),
        "negative": dataclasses.replace(SEAL, round=-1),
        "true for a number": dataclasses.replace(SEAL, round=True),
        "text for bytes": dataclasses.replace(SEAL, value="a" * 32),
        "a link for bytes": dataclasses.replace(SEAL, value=LINK),
        "null where it may not be": dataclasses.replace(SEAL, value=None),
        "a surrogate": bodies.Profile(
            display_name="\ud800", bio="", website="", avatar_url="", donation_address=""
        ),
        "a float in parameters": dataclasses.replace(GENESIS_BODY, params={"a": 0.5}),
        "null in parameters": dataclasses.replace(GENESIS_BODY, params={"a": None}),
        "too many parameters": dataclasses.replace(GENESIS_BODY, params={str(n): n for n in range(65)}),
        "a long parameter": dataclasses.replace(GENESIS_BODY, params={"a": "é" * 129}),
        "a long name of a parameter": dataclasses.replace(GENESIS_BODY, params={"é" * 129: 0}),
        "no roots": dataclasses.replace(GENESIS_BODY, roots=()),
        "17 roots": dataclasses.replace(GENESIS_BODY, roots=(D32,) * 17),
    }


@pytest.mark.parametrize("body", _samples().values(), ids=list(_samples()))
def test_a_body_out_of_bounds_is_refused_to_its_own_author(body: bodies.Body) -> None:
    context = (
        {"mesh": None, "seq": 0, "prev": None, "epoch": 0, "parents": ()} if body.KIND == "genesis" else {}
    )
    assert refused(body, **context) in ("bad-body", "forbidden-type")


def test_limits_of_text_count_bytes() -> None:
    fits = {"display_name": "é" * 32, "bio": "", "website": "", "avatar_url": "", "donation_address": ""}
    assert make(bodies.Profile(**fits)).body.display_name == "é" * 32
    assert refused(bodies.Profile(**{**fits, "display_name": "é" * 32 + "a"})) == "bad-body"


@pytest.mark.parametrize("kind", sorted(bodies.KINDS))
def test_every_field_is_needed_and_no_other_is_taken(kind: str) -> None:
    body = bodies.KINDS[kind]
    names = [item.name for item in dataclasses.fields(body)]
    for value in (
        {},
        dict.fromkeys(names[1:]),
        {**dict.fromkeys(names), "\x1b[31m": 0},
        None,
        [],
        "text",
        7,
        LINK,
    ):
        with pytest.raises(Refused) as caught:
            body.from_map(value)
        assert caught.value.code == "bad-body"
        assert "\x1b" not in str(caught.value)
    with pytest.raises(Refused):
        body.from_map({1: 2, "a": 3})  # keys of mixed types cannot be sorted; it is still a refusal
    for name in names:
        with pytest.raises(Refused) as caught:
            body.from_map(dict.fromkeys(names, object()))
        assert caught.value.code == "bad-body", name


class TestContext:
    second = make(SEAL)

    def offer(self, record: envelope.Record, *held: envelope.Record, epoch_now: int = 1) -> str | None:
        here = {item.cid: admit.Stub(item.author, item.seq, item.epoch) for item in held}
        try:
            admit.check_context(record, GENESIS.cid, here.get, epoch_now)
        except Refused as error:
            return error.code
        return None

    def test_offered_twice_it_is_right_twice(self) -> None:
        assert self.offer(self.second, GENESIS) is None
        assert self.offer(self.second, GENESIS, self.second) is None

    def test_missing_names_every_absent_record_once(self) -> None:
        absent = Cid.of(b"absent")
        record = make(SEAL, seq=2, prev=absent, parents=(absent, GENESIS.cid, LINK))
        with pytest.raises(Missing) as caught:
            admit.check_context(
                record, GENESIS.cid, lambda cid: None if cid != GENESIS.cid else admit.Stub(D32, 0, 0), 1
            )
        assert sorted(caught.value.cids) == sorted((absent, LINK))

    def test_the_future_is_refused_before_anything_is_fetched_for_it(self) -> None:
        assert self.offer(make(SEAL, epoch=4), epoch_now=1) == "future-epoch"
        assert self.offer(make(SEAL, epoch=3), epoch_now=1) == "missing-parents"
        assert self.offer(make(SEAL, epoch=1 << 40), GENESIS, epoch_now=1 << 40) is None

    def test_prev_is_the_authors_own_and_seq_counts_on(self) -> None:
        other = envelope.sign(
            SIGNERS[1], SEAL, mesh=GENESIS.cid, seq=0, prev=None, epoch=1, parents=(GENESIS.cid,)
        )
        assert self.offer(make(SEAL, prev=other.cid), GENESIS, other) == "bad-sequence"
        assert self.offer(make(SEAL, seq=2), GENESIS) == "bad-sequence"
        assert self.offer(make(SEAL, seq=2, prev=self.second.cid), GENESIS, self.second) is None

    def test_prev_counts_as_seen_for_the_epoch(self) -> None:
        third = make(SEAL, seq=2, prev=self.second.cid, epoch=0)
        assert self.offer(third, GENESIS, self.second) == "epoch-before-parent"

    def test_a_mesh_has_one_genesis(self) -> None:
        other = envelope.sign(SIGNERS[1], GENESIS_BODY, mesh=None, seq=0, prev=None, epoch=0, parents=())
        assert self.offer(other, GENESIS) == "second-genesis"
        assert self.offer(GENESIS) is None


def test_no_key_of_small_order_signs_for_everything() -> None:
    neutral = b"\1" + bytes(31)
    value = {**canonical.decode(make(SEAL).raw), "author": neutral, "sig": neutral + bytes(32)}
    assert code(canonical.encode(value)) == "bad-key"
    assert not keys.verify(neutral, b"anything", neutral + bytes(32))
