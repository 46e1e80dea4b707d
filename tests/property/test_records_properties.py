"""Properties of records that must hold for every input; a failing run prints its example and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spore_borg.limits import RECORD_SIZE_BYTES_MAX
from spore_borg.records import admit, bodies, canonical, envelope, keys
from spore_borg.records.cid import DAG_CBOR, Cid
from spore_borg.records.reasons import REASONS, Missing, Refused
from tests import strategies as our

QUICK = settings(
    max_examples=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MANY = settings(QUICK, max_examples=200)
_HEADS = bytes((0x00, 0x17, 0x18, 0x19, 0x1B, 0x20, 0x38, 0x40, 0x58, 0x60, 0x61, 0x78, 0x80, 0x81, 0x9B, 0x9F,
                0xA0, 0xA1, 0xBF, 0xC2, 0xD8, 0x2A, 0x1C, 0x1D, 0xF4, 0xF6, 0xF7, 0xF9, 0xFB, 0xFF))  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type; a tuple may come back as a list."""
    if isinstance(a, list | tuple):
        return type(b) is list and len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict:
        return type(b) is dict and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return type(a) is type(b) and bool(a == b)


def refusal(action: Callable[[], object]) -> str | None:
    """The reason code of an action, or None; anything else that it raises fails the test."""
    try:
        action()
    except Refused as error:
        return error.code if error.code in REASONS else f"{error.code} is not in the table"
    return None


@MANY
@given(our.values())
def test_a_value_comes_back_from_its_bytes(value: Any) -> None:
    raw = canonical.encode(value)
    back = canonical.decode(raw)
    assert same(value, back)
    assert canonical.encode(back) == raw


@MANY
@given(our.values(), our.values())
def test_different_values_have_different_bytes(a: Any, b: Any) -> None:
    assert (canonical.encode(a) == canonical.encode(b)) == same(_lists(a), _lists(b))


def _lists(value: Any) -> Any:
    return canonical.decode(canonical.encode(value))


@MANY
@given(st.binary(max_size=200) | st.lists(st.sampled_from(_HEADS), max_size=60).map(bytes))
def test_bytes_that_decode_are_the_only_bytes_of_their_value(raw: bytes) -> None:
    code = refusal(lambda: canonical.decode(raw))
    assert code in (None, "not-cbor", "not-canonical", "forbidden-type")
    if code is None:
        assert canonical.encode(canonical.decode(raw)) == raw


@MANY
@given(our.values(), st.data())
def test_altered_bytes_are_refused_or_mean_something_else(value: Any, data: st.DataObject) -> None:
    raw = bytearray(canonical.encode(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    how = data.draw(st.sampled_from(("flip", "cut", "drop", "insert")))
    if how == "flip":
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del raw[at:]
    elif how == "drop":
        del raw[at]
    else:
        raw.insert(at, data.draw(st.sampled_from(_HEADS)))
    altered = bytes(raw)
    if refusal(lambda: canonical.decode(altered)) is None:
        assert canonical.encode(canonical.decode(altered)) == altered


@pytest.mark.parametrize("kind", sorted(bodies.KINDS))
def test_every_valid_body_is_signed_parsed_and_read_back(kind: str) -> None:
    @settings(QUICK, max_examples=15)
    @given(our.records(kind))
    def check(record: envelope.Record) -> None:
        again = envelope.parse(record.raw)
        assert again == record
        assert envelope.parse(record.raw, trusted=True) == record
        assert again.cid == Cid.of(record.raw)
        fields = canonical.decode(record.raw)
        unsigned = canonical.encode({name: fields[name] for name in fields if name != "sig"})
        message = b"spore-borg/record/1\0" + hashlib.sha256(unsigned).digest()
        assert keys.verify(record.author, message, record.sig)
        assert again.cid.digest == hashlib.sha256(record.raw).digest()
        assert list(again.parents) == sorted(set(again.parents))
        assert type(again.body).from_map(again.body.to_map()) == again.body
        assert len(record.raw) <= RECORD_SIZE_BYTES_MAX
        assert set(record.past()) == set(record.parents) | ({record.prev} - {None})
        assert len(record.past()) == len(set(record.past()))

    check()


@QUICK
@given(our.records(), st.data())
def test_no_altered_record_is_taken(record: envelope.Record, data: st.DataObject) -> None:
    raw = bytearray(record.raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert refusal(lambda: envelope.parse(bytes(raw))) is not None


@QUICK
@given(our.records(), st.data())
def test_whatever_stands_in_a_field_the_answer_is_a_reason(
    record: envelope.Record, data: st.DataObject
) -> None:
    value = canonical.decode(record.raw)
    inside = data.draw(st.booleans())
    place = value["body"] if inside else value
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(our.values())
    raw = canonical.encode(value)
    code = refusal(lambda: envelope.parse(raw))
    assert (code is None) == (raw == record.raw)
    trusted = refusal(lambda: envelope.parse(raw, trusted=True))
    assert trusted not in ("bad-signature", "bad-key")


@QUICK
@given(our.any_body(), our.values(), st.data())
def test_a_body_takes_any_value_or_says_why_not(body: bodies.Body, value: Any, data: st.DataObject) -> None:
    fields = body.to_map()
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    assert refusal(lambda: type(body).from_map(fields)) in (None, "bad-body")
    assert refusal(lambda: type(body).from_map(value)) in (None, "bad-body")


def waits_for(
    record: envelope.Record, mesh: Cid, here: dict[Cid, admit.Stub], epoch_now: int
) -> tuple[Cid, ...]:
    """The records that admission asks for before it takes this one: really absent, and all of them."""
    try:
        admit.check_context(record, mesh, here.get, epoch_now)
    except Missing as error:
        absent = tuple(Cid(cid) for cid in error.cids)
    else:
        absent = ()
    assert set(absent) == set(record.past()) - here.keys()
    return absent


def admit_all(records: list[envelope.Record], mesh: Cid, epoch_now: int) -> set[Cid]:
    """Take the records in this order, over and over until nothing moves, as a node with an orphan pool does."""
    here: dict[Cid, admit.Stub] = {}
    waiting = records
    while waiting:
        left = []
        for record in waiting:
            absent = waits_for(record, mesh, here, epoch_now)
            if absent:
                left.append(record)
                continue
            here[record.cid] = admit.Stub(record.author, record.seq, record.epoch)
        if len(left) == len(waiting):
            break
        waiting = left
    return set(here)


@QUICK
@given(our.dags(), st.randoms(use_true_random=False))
def test_any_order_and_repetition_admits_the_same_set(records: list[envelope.Record], chance: Any) -> None:
    mesh, last = records[0].cid, max(record.epoch for record in records)
    everything = {record.cid for record in records}
    shuffled = records + records[::2]
    chance.shuffle(shuffled)
    assert admit_all(records, mesh, last) == everything
    assert admit_all(shuffled, mesh, last) == everything


@QUICK
@given(our.dags(), st.data())
def test_without_one_record_exactly_its_future_waits(
    records: list[envelope.Record], data: st.DataObject
) -> None:
    absent = data.draw(st.sampled_from(records))
    future = {absent.cid}
    for record in records:
        if future & set(record.past()):
            future.add(record.cid)
    here = admit_all([record for record in records if record is not absent], records[0].cid, 1 << 40)
    assert here == {record.cid for record in records} - future


@QUICK
@given(our.dags(), our.dags())
def test_no_record_of_one_mesh_is_valid_in_another(
    a: list[envelope.Record], b: list[envelope.Record]
) -> None:
    mesh = a[0].cid
    here = {record.cid: admit.Stub(record.author, record.seq, record.epoch) for record in a + b}
    for record in b:
        expected = "second-genesis" if record.mesh is None else "wrong-mesh"
        code = refusal(lambda record=record: admit.check_context(record, mesh, here.get, 1 << 40))
        assert code == (None if b[0].cid == mesh else expected)


@QUICK
@given(st.lists(our.cids(DAG_CBOR), min_size=1, max_size=64, unique=True))
def test_sorting_links_gives_the_order_that_parse_wants(parents: list[Cid]) -> None:
    record = envelope.sign(
        our.SIGNERS[0], bodies.Announce(target=parents[0]), mesh=parents[0], seq=0, prev=None, epoch=1,
        parents=(*parents, parents[0]),
    )  # fmt: skip
    assert list(record.parents) == sorted(parents, key=bytes)
    assert list(record.parents) == sorted(parents, key=lambda cid: cid.digest)
