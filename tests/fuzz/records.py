"""Fuzz harnesses for bytes from peers: whatever comes in, a value or a refusal comes out.

Run one for long: ``python tests/fuzz/records.py canonical corpus/ -max_total_time=3600``
(``canonical``, ``envelope`` or ``body``). Needs atheris. A short seeded run is part of the tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from spore_borg.records import bodies, canonical, envelope  # noqa: E402 - needs the path above
from spore_borg.records.reasons import REASONS, Refused  # noqa: E402 - as above


class Broken(Exception):
    """A property of records does not hold."""


def _known(error: Refused) -> None:
    if error.code not in REASONS:
        raise Broken(f"{error.code} is no reason code")


def canonical_once(raw: bytes) -> None:
    """Bytes that decode are the only bytes of their value."""
    try:
        value = canonical.decode(raw)
    except Refused as error:
        _known(error)
        return
    if canonical.encode(value) != raw:
        raise Broken("two byte strings mean one value")


def envelope_once(raw: bytes) -> None:
    """Bytes that parse as a record are its raw bytes; without the signature check, so that more is reached."""
    try:
        record = envelope.parse(raw, trusted=True)
    except Refused as error:
        _known(error)
        return
    again = type(record.body).from_map(canonical.decode(canonical.encode(record.body.to_map())))
    if record.raw != raw or again != record.body or record.cid.digest in record.parents:
        raise Broken("a record is not what its bytes say")


def body_once(raw: bytes) -> None:
    """The first byte chooses a kind, the rest is its body."""
    kinds = sorted(bodies.KINDS)
    try:
        value = canonical.decode(raw[1:])
        bodies.KINDS[kinds[raw[0] % len(kinds)] if raw else "seal"].from_map(value)
    except Refused as error:
        _known(error)


HARNESSES: dict[str, Callable[[bytes], None]] = {
    "canonical": canonical_once,
    "envelope": envelope_once,
    "body": body_once,
}


def seeds(harness: str) -> list[bytes]:
    """Inputs to begin with: the vectors of the spec."""
    folder = ROOT / "spec" / "vectors" / "records"
    raws = [bytes.fromhex(case["hex"]) for case in json.loads((folder / "valid.json").read_text())]
    if harness == "canonical":
        values = json.loads((folder / "canonical.json").read_text())
        raws += [bytes.fromhex(case["hex"]) for group in values.values() for case in group]
    if harness == "body":
        kinds = sorted(bodies.KINDS)
        fields = [canonical.decode(raw) for raw in raws]
        return [bytes((kinds.index(item["kind"]),)) + canonical.encode(item["body"]) for item in fields]
    return raws


def main() -> None:
    """Hand one harness to atheris; the further arguments are libFuzzer's."""
    import atheris

    name = sys.argv.pop(1)
    for loaded in [module for module in sys.modules if module.startswith("spore_borg")]:
        del sys.modules[loaded]  # to be loaded again, this time with the counters of coverage
    with atheris.instrument_imports(include=["spore_borg.records"], enable_loader_override=False):
        from tests.fuzz import records
    atheris.Setup(sys.argv, records.HARNESSES[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
