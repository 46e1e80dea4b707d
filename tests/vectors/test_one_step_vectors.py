"""The vectors of spec/vectors/one-step/: which steps a jury recomputes, and what its errors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spore_borg.records import bodies
from spore_borg.records.cid import Cid
from spore_borg.views import onestep

FILE = Path(__file__).resolve().parents[2] / "spec" / "vectors" / "one-step" / "steps.json"
CASES: dict[str, list[Any]] = json.loads(FILE.read_text(encoding="utf-8"))


def octets(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(map(bytes.fromhex, texts))


@pytest.mark.parametrize("case", CASES["pick"], ids=lambda case: case["name"])
def test_the_steps_that_are_picked(case: Any) -> None:
    chance, claim = octets([case["chance"], case["claim"]])
    picked = onestep.pick(octets(case["own"]), [octets(other) for other in case["others"]], chance, claim)
    assert list(picked) == case["steps"]


@pytest.mark.parametrize("case", CASES["words"], ids=str)
def test_the_words_of_errors(case: Any) -> None:
    answered = tuple((step, ppm) for step, ppm in case["answered"])
    assert onestep.word(tuple(case["asked"]), answered) == case["word"]


@pytest.mark.parametrize("case", CASES["trace"], ids=lambda case: case["name"])
def test_traces_against_openings(case: Any) -> None:
    given = case["opening"]
    opening = bodies.Open(
        target=Cid.of(b""), commits=(), loss_secret=bytes(32), losses=(0,), state_secret=bytes(32), tail=bytes(32),
        digests=octets(given["digests"]),
        inner=tuple((segment, step, bytes.fromhex(digest)) for segment, step, digest in given["inner"]),
    )  # fmt: skip
    fault = onestep.trace_fault(opening, case["segment"], case["steps"], octets(case["digests"]))
    assert bool(fault) == case["fault"]
