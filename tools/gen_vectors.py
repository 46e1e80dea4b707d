"""Write spec/vectors/records/ and spec/vectors/gate/ from fixed seeds; ``--check`` compares instead and writes nothing.

The vectors are for other implementations: each file says what its bytes are and what must come out.
Run: ``python tools/gen_vectors.py [--check]``. Exit status: 0 done, 1 the files differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import ed25519_points as curve  # noqa: E402 - needs the path above
import record_samples as samples  # noqa: E402 - as above

from spore_borg.limits import FUTURE_EPOCHS_MAX  # noqa: E402 - as above
from spore_borg.records import admit, canonical, envelope, keys, merkle, onion  # noqa: E402 - as above
from spore_borg.records.cid import Cid  # noqa: E402 - as above
from spore_borg.records.reasons import Refused  # noqa: E402 - as above
from spore_borg.views import gate  # noqa: E402 - as above

OUT = ROOT / "spec" / "vectors" / "records"
Json = Any


def plain(value: Any) -> Json:
    """A decoded value as JSON: bytes are {"hex": …}, links {"/": text}, integers decimal text beyond 2^53."""
    if isinstance(value, Cid):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value) is int and abs(value) > 1 << 53:
        return {"int": str(value)}
    return value


def code_of(action: Callable[[], object]) -> str | None:
    """The reason code that an action gives, None if it gives none."""
    try:
        action()
    except Refused as error:
        return error.code
    return None


def canonical_vectors() -> Json:
    """Values and their only bytes; bytes that are no value's."""
    valid = [
        {"name": name, "hex": canonical.encode(value).hex(), "value": plain(value)}
        for name, value in samples.VALUES
    ]
    invalid = []
    for name, raw, code in samples.BAD_BYTES:
        found = code_of(lambda raw=raw: canonical.decode(raw))  # type: ignore[misc]
        _expect(name, found, code)
        invalid.append({"name": name, "hex": raw.hex(), "code": code})
    return {"valid": valid, "invalid": invalid}


def _expect(name: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"vector {name!r} gives {found}, not {expected}")


def valid_vectors() -> Json:
    """One or more records of every kind."""
    return [
        {
            "name": name,
            "seed": seed.hex(),
            "hex": record.raw.hex(),
            "cid": str(record.cid),
            "decoded": plain(canonical.decode(record.raw)),
        }
        for name, seed, record in samples.valid_records()
    ]


def invalid_vectors() -> Json:
    """Records that ``parse`` refuses, each with its code."""
    found = []
    for name, raw, code in samples.invalid_records():
        _expect(name, code_of(lambda raw=raw: envelope.parse(raw)), code)  # type: ignore[misc]
        if len(raw) > 1 << 14:  # one long record, told by what it repeats
            found.append({"name": name, "fill": raw[:1].hex(), "count": len(raw), "code": code})
            _expect(name, raw, raw[:1] * len(raw))
        else:
            found.append({"name": name, "hex": raw.hex(), "code": code})
    return found


def context_vectors() -> Json:
    """Records that are well-formed, offered to a node that holds others."""
    found = []
    for name, held, record, mesh, epoch_now, code in samples.offered_records():
        here = {item.cid: admit.Stub(item.author, item.seq, item.epoch) for item in held}
        answer = code_of(lambda: admit.check_context(record, mesh, here.get, epoch_now))  # noqa: B023 - used at once
        _expect(name, answer, code)
        found.append(
            {
                "name": name,
                "mesh": str(mesh),
                "epoch_now": epoch_now,
                "held": [item.raw.hex() for item in held],
                "record": record.raw.hex(),
                "missing": sorted(str(cid) for cid in record.past() if cid not in here)
                if code == "missing-parents"
                else [],
                "code": code,
            }
        )
    return {"future_epochs_max": FUTURE_EPOCHS_MAX, "cases": found}


def signature_vectors() -> Json:
    """Signatures with every known way to differ between verifiers."""
    found = []
    for name, public, message, signature, valid in signature_cases():
        usable, verified = keys.usable(public), keys.verify(public, message, signature)
        _expect(name, usable and verified, valid)
        found.append(
            {
                "name": name,
                "public": public.hex(),
                "message": message.hex(),
                "signature": signature.hex(),
                "key_usable": usable,
                "valid": valid,
            }
        )
    return found


Case = tuple[str, bytes, bytes, bytes, bool]


def _forge(scalar: int, public: bytes, nonce: int, message: bytes, extra: curve.Point) -> tuple[bytes, int]:
    """A signature with R = nonce·B + extra, and its hash scalar."""
    point = curve.pack(curve.add(curve.times(nonce, curve.BASE), extra))
    digest = curve.hash_scalar(point, public, message)
    return point + ((nonce + digest * scalar) % curve.L).to_bytes(32, "little"), digest


def signature_cases() -> list[Case]:
    """(name, public key, message, signature, whether a record signed so is taken)."""
    seed, message = samples.seed(1), b"spore-borg signature vector"
    key, scalar = keys.SigningKey(seed), curve.secret_scalar(seed)
    good = key.sign(message)
    s = int.from_bytes(good[32:], "little")
    torsion = curve.order_eight()
    cases: list[Case] = [
        ("good", key.public, message, good, True),
        ("good, empty message", key.public, b"", key.sign(b""), True),
        ("good, made by hand", key.public, message, _forge(scalar, key.public, 77, message, curve.NEUTRAL)[0], True),
        ("another message", key.public, message + b"\0", good, False),
        ("another key", keys.SigningKey(samples.seed(2)).public, message, good, False),
        ("R altered", key.public, message, bytes((good[0] ^ 1,)) + good[1:], False),
        ("S altered", key.public, message, good[:32] + bytes((good[32] ^ 1,)) + good[33:], False),
        ("S + L: S is not canonical", key.public, message, good[:32] + (s + curve.L).to_bytes(32, "little"), False),
        ("S = L", key.public, message, good[:32] + curve.L.to_bytes(32, "little"), False),
        ("S with its highest bit set", key.public, message, good[:63] + bytes((good[63] | 0x80,)), False),
        ("all zero", key.public, message, bytes(64), False),
        ("R is the neutral point", key.public, message,
         _forge(scalar, key.public, 0, message, curve.NEUTRAL)[0], False),
        ("R has order 8", key.public, message, _forge(scalar, key.public, 0, message, torsion)[0], False),
        ("R is mixed: valid only with the cofactor", key.public, message,
         _forge(scalar, key.public, 91, message, torsion)[0], False),
    ]  # fmt: skip
    mixed = curve.pack(curve.add(curve.times(scalar, curve.BASE), torsion))
    for nonce in range(1, 500):  # until the torsion part vanishes: valid with and without the cofactor
        signature, digest = _forge(scalar, mixed, nonce, message, curve.NEUTRAL)
        if digest % 8 == 0:
            cases.append(("A is mixed, and every equation holds", mixed, message, signature, False))
            break
    return cases + [
        (f"A has order {order}{kind}", public, message, curve.pack(curve.NEUTRAL) + bytes(32), False)
        for order, kind, public in _small_keys(torsion)
    ] + _odd_keys(message)  # fmt: skip


def _small_keys(torsion: curve.Point) -> list[tuple[int, str, bytes]]:
    found = []
    for multiple in range(8):
        point = curve.times(multiple, torsion)
        order = next(size for size in (1, 2, 4, 8) if curve.times(size, point) == curve.NEUTRAL)
        raw = curve.pack(point)
        found.append((order, f" ({multiple} T)", raw))
        if point.x == 0:  # the sign of zero: a second, not canonical encoding
            found.append((order, f" ({multiple} T), sign bit set", raw[:31] + bytes((raw[31] | 0x80,))))
        if point.y + curve.P < 1 << 255:
            again = (point.y + curve.P | (point.x & 1) << 255).to_bytes(32, "little")
            found.append((order, f" ({multiple} T), y + p", again))
    return found


def _odd_keys(message: bytes) -> list[Case]:
    """Keys whose y is not below p, and 32 bytes that are no point."""
    cases: list[Case] = []
    for y in range(2, 19):
        point = curve.with_y(y)
        if point is not None:
            public = (y + curve.P | (point.x & 1) << 255).to_bytes(32, "little")
            cases.append((f"A is not canonical: y = p + {y}", public, message, bytes(64), False))
    y = next(y for y in range(2, 100) if curve.with_y(y) is None)
    cases.append((f"A is not on the curve: y = {y}", y.to_bytes(32, "little"), message, bytes(64), False))
    return cases


def commitment_vectors() -> Json:
    """Loss roots, state roots and hash onions."""
    secret = samples.seed(9)
    trees = []
    for count in (1, 2, 3, 5, 8, 13):
        losses = [1_000_000_007 * (index + 1) for index in range(count)]
        root = merkle.loss_root(secret, losses)
        proof = merkle.loss_proof(secret, losses, count - 1)
        digests = [bytes((index,)) * 32 for index in range(count)]
        trees.append(
            {
                "losses": losses,
                "loss_root": root.digest.hex(),
                "loss_sum": root.total,
                "proof_of_last": [{"digest": item.digest.hex(), "total": item.total} for item in proof],
                "digests": [digest.hex() for digest in digests],
                "state_root": merkle.state_root(secret, digests).hex(),
            }
        )
    layers = onion.Onion(secret, 1000)
    values = [
        {"index": index, "value": layers.value(index).hex()} for index in (1, 2, 511, 512, 513, 999, 1000)
    ]
    return {
        "secret": secret.hex(),
        "trees": trees,
        "onion": {"length": 1000, "anchor": layers.anchor.hex(), "values": values},
        "state_digest": {
            "params": samples.seed(3).hex(),
            "tail": samples.seed(4).hex(),
            "digest": merkle.state_digest(samples.seed(3), samples.seed(4)).hex(),
        },
    }


LEVEL = 1_000_000_000  # of a block's loss
GATE: list[tuple[str, list[int], list[int], str]] = [  # name, before, before - after, word
    ("a little worse, and less than a hundredth beyond noise", [LEVEL] * 8, [-900_000, -800_000] * 4, "even"),
    ("noise that may hide a hundredth", [LEVEL] * 8, [-20_000_000, 18_000_000] * 4, "even"),
    ("steady, a hundredth worse", [LEVEL] * 8, [-LEVEL // 100] * 8, "worse"),
    ("steady, 9 thousandths worse", [LEVEL] * 8, [-9 * LEVEL // 1000] * 8, "worse"),
    ("equal blocks", [LEVEL] * 8, [0] * 8, "even"),
    ("no losses at all", [0] * 8, [0] * 8, "even"),
    ("no pairs", [], [], "unknown"),
    ("three pairs", [900] * 3, [9] * 3, "unknown"),
    ("four pairs, a hundredth", [900] * 4, [9] * 4, "better"),
    ("all better by the same", [100] * 8, [5] * 8, "better"),
    ("all worse by the same", [100] * 8, [-5] * 8, "worse"),
    ("t is exactly 2", [100] * 4, [-1, 3, 3, 3], "even"),
    ("noise", [1000] * 8, [100, -90, 80, -70, 60, -50, 40, -30], "even"),
    ("clear of the noise", [1000] * 8, [100, 90, 110, 95, 105, 99, 101, 98], "better"),
    ("worse beyond the noise", [1000] * 8, [-100, -90, -110, -95, -105, -99, -101, -98], "worse"),
    ("steady, exactly a hundredth", [LEVEL] * 16, [LEVEL // 100] * 16, "better"),
    ("steady, a little less than a hundredth", [LEVEL] * 16, [LEVEL // 100] * 15 + [LEVEL // 100 - 1], "even"),
    ("a hundredth of all pairs, not of each", [LEVEL, LEVEL // 10] * 4, [LEVEL // 100, LEVEL // 1000] * 4, "better"),
    ("what a copy gains", [LEVEL] * 16, [6_000_000, 5_900_000] * 8, "even"),
    ("steady, exactly a thousandth worse", [LEVEL] * 16, [-LEVEL // 1000] * 16, "worse"),
    ("steady, a little less than a thousandth worse", [LEVEL] * 16,
     [-LEVEL // 1000] * 15 + [1 - LEVEL // 1000], "even"),
    ("large", [9 * 10**17] * 4, [4 * 10**17, 3 * 10**17, 5 * 10**17, 4 * 10**17], "better"),
]  # fmt: skip


def gate_vectors() -> Json:
    """Losses of the compared pairs of one probe, the gate's word, and whether a harm of a hundredth is ruled out."""
    found = []
    for name, before, gain, word in GATE:
        after = [loss - less for loss, less in zip(before, gain, strict=True)]
        said = gate.weigh(0, name, before, after)
        _expect(name, said.word, word)
        found.append({"name": name, "before": before, "after": after, "word": word, "held": said.held})
    return found


FILES: dict[str, Callable[[], Json]] = {
    "canonical.json": canonical_vectors,
    "valid.json": valid_vectors,
    "invalid.json": invalid_vectors,
    "context.json": context_vectors,
    "signatures.json": signature_vectors,
    "commitments.json": commitment_vectors,
    "../gate/gate.json": gate_vectors,
}


def main(arguments: list[str] | None = None) -> int:
    """Write or compare all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args(arguments).check
    OUT.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, make in FILES.items():
        text = json.dumps(make(), indent=1, ensure_ascii=True) + "\n"
        path = OUT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)} differ from what the code gives. Run: python tools/gen_vectors.py")
        return 1
    print(f"{len(FILES)} files, {len(stale)} {'differ' if check else 'written'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
