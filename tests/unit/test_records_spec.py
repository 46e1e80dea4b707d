"""The chapters of spec/ on records name every field, shape, bound and reason code that the code has."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from spore_borg import limits
from spore_borg.records import bodies, envelope, keys
from spore_borg.records.cid import Cid
from spore_borg.records.reasons import REASONS

SPEC = Path(__file__).resolve().parents[2] / "spec"
KINDS = (SPEC / "11-kinds.md").read_text(encoding="utf-8")
ADMISSION = (SPEC / "12-admission.md").read_text(encoding="utf-8")
RECORDS = (SPEC / "10-records.md").read_text(encoding="utf-8")


def number(value: int) -> str:
    """A bound as people write it."""
    for power in (20, 22, 24, 62, 63):
        if value == 1 << power:
            return f"2^{power}"
        if value == (1 << power) - 1:
            return f"2^{power} − 1"
        if value == 1 - (1 << power):
            return f"−(2^{power} − 1)"
    return f"{value:,}".replace(",", " ")


def describe(shape: Any) -> str:
    """A shape of ``records.shapes`` in the words of the spec, read from what it closed over."""
    name = shape.__qualname__.split(".")[0]
    held = inspect.getclosurevars(shape).nonlocals
    if name == "integer":
        return f"integer, {number(held['low'])} … {number(held['high'])}"
    if name == "octets":
        return f"{held['size']} bytes"
    if name == "text":
        return f"text, at most {held['size_max']} bytes"
    if name == "maybe":
        return f"null or {describe(held['shape'])}"
    if name == "one_of":
        return "one of " + ", ".join(f"`{word}`" for word in held["words"])
    if name == "many":
        return f"list of {number(held['least'])} … {number(held['most'])}: {describe(held['shape'])}"
    if name == "row":
        return "list (" + "; ".join(map(describe, held["shapes"])) + ")"
    if name == "flat_map":
        return f"flat map, at most {held['most']} entries"
    return {"link": "link", "flag": "true or false"}[name]


def section(text: str, title: str) -> str:
    found = re.search(rf"^##+ `{title}`.*?(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section `{title}`"
    return found.group()


@pytest.mark.parametrize("kind", sorted(bodies.KINDS))
def test_every_kind_and_field_is_written_down_with_its_shape(kind: str) -> None:
    rows = section(KINDS, kind)
    fields = dataclasses.fields(bodies.KINDS[kind])
    for item in fields:
        assert f"| `{item.name}` | {describe(item.metadata['shape'])} |" in rows
    written = re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
    assert written == [item.name for item in fields], "the table has the fields in the order of the code"


def test_no_other_kind_is_written_down() -> None:
    assert set(re.findall(r"^## `(\w+)`", KINDS, re.MULTILINE)) == set(bodies.KINDS)


def test_every_reason_code_is_explained() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", ADMISSION, re.MULTILINE)
    assert [name for name, _ in rows] == list(REASONS)


@pytest.mark.parametrize(
    "name", ["RECORD_SIZE_BYTES_MAX", "RECORD_DEPTH_MAX", "RECORD_ITEMS_MAX", "PARENTS_MAX"]
)
def test_limits_are_given_with_their_value(name: str) -> None:
    assert f"| `{name}` | {number(getattr(limits, name))} |" in RECORDS


def test_the_window_of_the_future_is_given_with_its_value() -> None:
    assert f"`FUTURE_EPOCHS_MAX` = {limits.FUTURE_EPOCHS_MAX}" in ADMISSION


def test_every_field_of_the_envelope_is_written_down() -> None:
    named = [item.name for item in dataclasses.fields(envelope.Record) if item.name not in ("cid", "raw")]
    for name in ("v", *named):
        assert re.search(rf"^\| `{name}` \|", RECORDS, re.MULTILINE), name


def test_links_between_chapters_lead_somewhere() -> None:
    for chapter in ("README.md", "00-overview.md", "10-records.md", "11-kinds.md", "12-admission.md"):
        text = (SPEC / chapter).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert (SPEC / target).exists(), f"{chapter}: {target}"


def test_the_signed_bytes_are_the_records_without_its_signature_as_chapter_10_says() -> None:
    key = keys.SigningKey(bytes(32))
    link = Cid.of(b"something")
    for seq in (1, 23, 24, 255, 256, 65_536, 0x63736967, 0x6373696758, 1 << 40):
        body = bodies.Announce(target=link)
        record = envelope.sign(key, body, mesh=link, seq=seq, prev=link, epoch=1, parents=(link,))
        mark = b"\x63sig\x58\x40" + record.sig
        assert record.raw.count(mark) == 1
        unsigned = b"\xa9" + record.raw[1:].replace(mark, b"")
        message = b"spore-borg/record/1\0" + hashlib.sha256(unsigned).digest()
        assert len(message) == 52
        assert keys.verify(key.public, message, record.sig)


def test_the_order_of_the_envelopes_keys_is_the_one_of_chapter_10() -> None:
    written = re.search(r"canonical order of keys \(([^)]+)\)", RECORDS)
    assert written
    names = re.findall(r"`(\w+)`", written.group(1))
    assert names == sorted(names, key=lambda name: (len(name), name))
    assert set(names) == set(
        re.findall(r"^\| `(\w+)` \| (?:integer|text|null|bytes|list|map)", RECORDS, re.MULTILINE)
    )
