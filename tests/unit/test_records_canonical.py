"""What no byte of a peer may do: mean two things, cost much, or raise anything but a refusal."""

from __future__ import annotations

import time
import tracemalloc

import cbor2
import pytest

from spore_borg.limits import RECORD_DEPTH_MAX, RECORD_ITEMS_MAX, RECORD_SIZE_BYTES_MAX
from spore_borg.records import canonical
from spore_borg.records.cid import DAG_CBOR, RAW, Cid
from spore_borg.records.reasons import REASONS, Missing, Refused

LINK = Cid.of(b"block")


def code(raw: bytes) -> str:
    with pytest.raises(Refused) as caught:
        canonical.decode(raw)
    return caught.value.code


def bad(value: object) -> str:
    with pytest.raises(Refused) as caught:
        canonical.encode(value)
    return caught.value.code


def test_true_is_not_one_and_bytes_are_not_a_link() -> None:
    assert canonical.encode(True) != canonical.encode(1)
    assert canonical.decode(canonical.encode([True, 1, False, 0])) == [True, 1, False, 0]
    assert type(canonical.decode(canonical.encode(True))) is bool
    assert type(canonical.decode(canonical.encode(bytes(LINK)))) is bytes
    assert type(canonical.decode(canonical.encode(LINK))) is Cid


def test_keys_stand_in_length_first_order_in_every_size_class() -> None:
    names = ["b", "aa", "", "z" * 23, "a" * 24, "a" * 255, "a" * 256, "é", "~~"]
    raw = canonical.encode(dict.fromkeys(names, 0))
    assert list(canonical.decode(raw)) == sorted(names, key=lambda name: (len(name.encode()), name.encode()))


def test_text_is_never_normalised() -> None:
    assert len(canonical.decode(canonical.encode({"é": 1, "e\u0301": 2}))) == 2


@pytest.mark.parametrize(
    "value",
    [1.0, float("nan"), 1 << 63, -(1 << 63) - 1, {1: 0}, {b"a": 0}, {1, 2}, bytearray(b"a"), object(), "\ud800",
     {"\udfff": 0}, cbor2.CBORTag(1, 2), cbor2.undefined, [[{"a": 1.5}]]],
    ids=repr,
)  # fmt: skip
def test_a_type_that_no_record_holds_is_not_encoded(value: object) -> None:
    assert bad(value) == "forbidden-type"


def test_depth_ends_where_the_limit_says() -> None:
    deepest = 0
    for _ in range(RECORD_DEPTH_MAX):
        deepest = [deepest]  # type: ignore[assignment]
    raw = canonical.encode(deepest)
    assert canonical.decode(raw) == deepest
    assert code(b"\x81" + raw) == "not-cbor"
    assert bad([deepest]) == "not-cbor"
    maps = b"\xa1\x60" * RECORD_DEPTH_MAX + b"\x00"
    assert canonical.encode(canonical.decode(maps)) == maps
    assert code(b"\xa1\x60" + maps) == "not-cbor"


def test_items_end_where_the_limit_says_and_keys_are_not_items() -> None:
    full = [0] * (RECORD_ITEMS_MAX - 1)
    raw = canonical.encode(full)
    assert canonical.decode(raw) == full
    assert bad([*full, 0]) == "not-cbor"
    assert code(b"\x99" + RECORD_ITEMS_MAX.to_bytes(2, "big") + bytes(RECORD_ITEMS_MAX)) == "not-cbor"
    names = {f"{number:04}": 0 for number in range(RECORD_ITEMS_MAX - 1)}
    assert canonical.decode(canonical.encode(names)) == names


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert bad(loop) == "not-cbor"


def _bombs() -> dict[str, bytes]:
    size = RECORD_SIZE_BYTES_MAX
    text = b"\x79" + (40_000).to_bytes(2, "big") + b"a" * 40_000
    many = b"\x99" + (5000).to_bytes(2, "big")
    keys = [cbor2.dumps(number * ((1 << 61) - 1) * 8) for number in range(1 << 10, 6000)]
    big = b"\xc2\x59" + (size - 10).to_bytes(2, "big") + b"\xff" * (size - 10)
    return {
        "string references": b"\xd9\x01\x00" + many + text + b"\xd8\x19\x00" * 4999,
        "shared references": many + b"\xd8\x1c" + text + b"\xd8\x1d\x00" * 4999,
        "keys of one hash": b"\xb9" + len(keys).to_bytes(2, "big") + b"".join(key + b"\0" for key in keys),
        "a big number": big,
        "a big decimal": b"\xc4\x82\x00" + big,
        "a regular expression": cbor2.dumps(cbor2.CBORTag(35, "(?:a" * 15_000)),
        "lists in lists": b"\x81" * size,
        "maps in maps": b"\xa1\x60" * (size // 2),
        "tags in tags": b"\xd8\x2a" * (size // 2),
        "lists that say they are long": b"\x9b\x7f" + b"\xff" * 7 + b"\x80" * (size - 9),
        "many empty maps": b"\x99\xff\xff" + b"\xa0" * (size - 3),
        "many short texts": b"\x99\x80\x00" + b"\x61a" * 32_000,
        "a map of many": b"\xb9\x30\x00" + b"".join(b"\x64%04x\xf6" % number for number in range(0x2800)),
        "bytes that say they are long": b"\x5b\x7f" + b"\xff" * 7,
    }


@pytest.mark.parametrize(("name", "raw"), _bombs().items(), ids=list(_bombs()))
def test_no_bytes_cost_more_than_they_are_worth(name: str, raw: bytes) -> None:
    assert len(raw) <= RECORD_SIZE_BYTES_MAX + 3000
    tracemalloc.start()
    began_s = time.process_time()
    assert code(raw) in ("not-cbor", "forbidden-type", "not-canonical")
    spent_s = time.process_time() - began_s
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 << 20, name
    assert spent_s < 1.0, name  # tracing slows it; untraced it is a few milliseconds


def test_the_costliest_valid_bytes_stay_cheap() -> None:
    raw = canonical.encode({f"{number:06}": -number for number in range(6000)})
    tracemalloc.start()
    began_s = time.process_time()
    canonical.decode(raw)
    assert time.process_time() - began_s < 1.0
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_every_first_byte_is_a_value_or_a_refusal() -> None:
    taken = 0
    for raw in (bytes((a, b, c)) for a in range(256) for b in range(0, 256, 3) for c in (0, 0x61, 0xFF)):
        for cut in (raw, raw[:2], raw[:1]):
            try:
                value = canonical.decode(cut)
            except Refused:
                continue
            taken += 1
            assert canonical.encode(value) == cut
    assert taken > 1000


class TestCid:
    def test_text_and_bytes_are_two_forms_of_one_cid(self) -> None:
        for codec in (DAG_CBOR, RAW):
            cid = Cid.of(b"", codec)
            assert Cid.parse(str(cid)) == Cid(bytes(cid)) == cid
            assert (cid.codec, len(cid.digest), len(str(cid))) == (codec, 32, 59)
            assert Cid.from_digest(cid.digest, codec) == cid

    def test_the_cid_of_the_empty_block_is_the_known_one(self) -> None:
        assert str(Cid.of(b"", RAW)) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"

    def test_no_two_texts_mean_one_cid(self) -> None:
        text = str(LINK)
        letters = "abcdefghijklmnopqrstuvwxyz234567"
        last = letters.index(text[-1])
        for spare in range(4):
            other = text[:-1] + letters[last & ~3 | spare]
            if other != text:
                with pytest.raises(ValueError, match="canonical text"):
                    Cid.parse(other)

    @pytest.mark.parametrize("text", ["", "b", str(LINK).upper(), str(LINK)[:-1], str(LINK) + "a", str(LINK) + "\n",
                                      "z" + str(LINK)[1:], " " + str(LINK), str(LINK)[:-1] + "1"])  # fmt: skip
    def test_other_text_is_no_cid(self, text: str) -> None:
        with pytest.raises(ValueError):
            Cid.parse(text)

    @pytest.mark.parametrize(
        "raw",
        [b"", bytes(36), bytes(LINK)[:35], bytes(LINK) + b"\0", b"\2" + bytes(LINK)[1:],
         b"\1\x70" + bytes(LINK)[2:], b"\1\x71\x13\x20" + LINK.digest, b"\1\x71\x00\x20" + LINK.digest],
        ids=range(8),
    )  # fmt: skip
    def test_other_bytes_are_no_cid(self, raw: bytes) -> None:
        with pytest.raises(ValueError):
            Cid(raw)


def test_a_refusal_says_its_code_and_what_is_wrong() -> None:
    for name, sentence in REASONS.items():
        error = Refused(name)
        assert name in str(error)
        assert sentence in str(error)
        assert error.code == name
    missing = Missing((LINK,))
    assert (missing.code, missing.cids) == ("missing-parents", (LINK,))
    assert "{brace}" in str(Refused("bad-body", "{brace}"))
