"""The records and bytes behind spec/vectors/records/: fixed seeds, one sample or more for every rule."""

from __future__ import annotations

import hashlib
from typing import Any

from spore_borg.limits import (
    FUTURE_EPOCHS_MAX,
    PARENTS_MAX,
    RECORD_DEPTH_MAX,
    RECORD_SIZE_BYTES_MAX,
)
from spore_borg.records import bodies, canonical, envelope, keys
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record

DOMAIN = b"spore-borg/record/1\0"  # repeated here, so that a changed domain changes no vector silently


def seed(number: int) -> bytes:
    """32 bytes: a key's seed, a digest, whatever a sample needs."""
    return hashlib.sha256(b"spore-borg vector %d" % number).digest()


def link(number: int, codec: int = 0x71) -> Cid:
    """A link to something that does not exist."""
    return Cid.from_digest(seed(number), codec)


VALUES: list[tuple[str, Any]] = [
    ("null", None),
    ("false", False),
    ("true", True),
    *((f"integer {n}", n) for n in (0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1)),
    *((f"integer {n}", n) for n in (-1, -24, -25, -256, -257, -(2**32), -(2**32) - 1, -(2**63))),
    ("no bytes", b""),
    ("24 bytes", bytes(range(24))),
    ("no text", ""),
    ("text, composed", "\u00e9"),
    ("text, decomposed: another text", "e\u0301"),
    ("text beyond the basic plane", "\U0001f344"),
    ("text with NUL and a byte order mark", "\0\ufeff"),
    ("empty list", []),
    ("nested list", [1, [2, [3]], []]),
    ("empty map", {}),
    ("keys: the shorter first, then bytewise", {"b": 1, "aa": 2, "": 0, "a": 3, "ab": 4, "\u00e9": 5}),
    ("keys: composed and decomposed stay two", {"\u00e9": 1, "e\u0301": 2}),
    ("link to a record", link(40)),
    ("link to a blob", link(41, RAW)),
    ("deepest", [[[[[[[[[[[[0]]]]]]]]]]]]),
]

_CID = bytes(link(40))
_LINK = b"\xd8\x2a\x58\x25\x00" + _CID

BAD_BYTES: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "not-cbor"),
    ("an integer is cut off", b"\x19\x01", "not-cbor"),
    ("a text is cut off", b"\x62a", "not-cbor"),
    ("a list is cut off", b"\x82\x00", "not-cbor"),
    ("a map without its last value", b"\xa1\x61a", "not-cbor"),
    ("a link is cut off", _LINK[:-1], "not-cbor"),
    ("a byte follows", b"\x00\x00", "not-cbor"),
    ("a length of 2^64 - 1 bytes", b"\x5b" + b"\xff" * 8, "not-cbor"),
    ("a list of 2^64 - 1", b"\x9b" + b"\xff" * 8, "not-cbor"),
    ("a map of 2^64 - 1", b"\xbb" + b"\xff" * 8, "not-cbor"),
    ("additional information 28", b"\x1c", "not-cbor"),
    ("additional information 31 on an integer", b"\x1f", "not-cbor"),
    ("a break", b"\xff", "not-cbor"),
    ("text that is not UTF-8", b"\x61\xff", "not-cbor"),
    ("text with an overlong form", b"\x62\xc0\x80", "not-cbor"),
    ("text with a surrogate", b"\x63\xed\xa0\x80", "not-cbor"),
    ("too deep", b"\x81" * (RECORD_DEPTH_MAX + 1) + b"\x00", "not-cbor"),
    ("far too deep", b"\x81" * 5000, "not-cbor"),
    ("integer 0 in two bytes", b"\x18\x00", "not-canonical"),
    ("integer 255 in three bytes", b"\x19\x00\xff", "not-canonical"),
    ("integer 65535 in five bytes", b"\x1a\x00\x00\xff\xff", "not-canonical"),
    ("integer 1 in nine bytes", b"\x1b" + bytes(7) + b"\x01", "not-canonical"),
    ("integer -1 in two bytes", b"\x38\x00", "not-canonical"),
    ("a long length of bytes", b"\x58\x01a", "not-canonical"),
    ("a long length of text", b"\x78\x01a", "not-canonical"),
    ("a long length of a list", b"\x98\x00", "not-canonical"),
    ("a long length of a map", b"\xb8\x00", "not-canonical"),
    ("a long tag number", b"\xd9\x00\x2a" + _LINK[2:], "not-canonical"),
    ("bytes of indefinite length", b"\x5f\x41a\xff", "not-canonical"),
    ("text of indefinite length", b"\x7f\x61a\xff", "not-canonical"),
    ("a list of indefinite length", b"\x9f\xff", "not-canonical"),
    ("a map of indefinite length", b"\xbf\xff", "not-canonical"),
    ("keys bytewise instead of length-first", b"\xa2\x62aa\x00\x61b\x00", "not-canonical"),
    ("keys of one length, unsorted", b"\xa2\x61b\x00\x61a\x00", "not-canonical"),
    ("the same key twice", b"\xa2\x61a\x00\x61a\x00", "not-canonical"),
    ("the same key twice, with two values", b"\xa2\x61a\x00\x61a\x01", "not-canonical"),
    ("half float 1.0", b"\xf9\x3c\x00", "forbidden-type"),
    ("single float 1.0", b"\xfa\x3f\x80\x00\x00", "forbidden-type"),
    ("double float -0.0", b"\xfb\x80" + bytes(7), "forbidden-type"),
    ("half float NaN", b"\xf9\x7e\x00", "forbidden-type"),
    ("undefined", b"\xf7", "forbidden-type"),
    ("simple value 16", b"\xf0", "forbidden-type"),
    ("simple value 255", b"\xf8\xff", "forbidden-type"),
    ("integer 2^63", b"\x1b\x80" + bytes(7), "forbidden-type"),
    ("integer -2^63 - 1", b"\x3b\x80" + bytes(7), "forbidden-type"),
    ("an integer as key", b"\xa1\x00\x00", "forbidden-type"),
    ("bytes as key", b"\xa1\x41a\x00", "forbidden-type"),
    ("a link as key", b"\xa1" + _LINK + b"\x00", "forbidden-type"),
    ("tag 0: a date", b"\xc0\x74" + b"2013-03-21T20:04:00Z", "forbidden-type"),
    ("tag 2: a big number that would fit", b"\xc2\x41\x01", "forbidden-type"),
    ("tag 2: a big number", b"\xc2\x49\x01" + bytes(8), "forbidden-type"),
    ("tag 25 and 256: a string reference", b"\xd9\x01\x00\x82\x63abc\xd8\x19\x00", "forbidden-type"),
    ("tag 28: a shared list that holds itself", b"\xd8\x1c\x81\xd8\x1d\x00", "forbidden-type"),
    ("tag 35: a regular expression", b"\xd8\x23\x61a", "forbidden-type"),
    ("tag 55799: self-described CBOR", b"\xd9\xd9\xf7\x00", "forbidden-type"),
    ("tag 42 in tag 42", b"\xd8\x2a" + _LINK + bytes(33), "forbidden-type"),
    ("tag 42 over text", b"\xd8\x2a\x78\x25" + bytes(37), "forbidden-type"),
    ("tag 42 without the 0x00", b"\xd8\x2a\x58\x24" + _CID + b"\x00" * 2, "forbidden-type"),
    ("tag 42 with another multibase", b"\xd8\x2a\x58\x25\x01" + _CID, "forbidden-type"),
    ("tag 42 with a long length", b"\xd8\x2a\x59\x00\x25\x00" + _CID, "forbidden-type"),
    ("tag 42: CID version 0", b"\xd8\x2a\x58\x23\x00" + _CID[2:] + b"\x00" * 2, "forbidden-type"),
    ("tag 42: codec dag-pb", _LINK[:6] + b"\x70" + _LINK[7:], "forbidden-type"),
    ("tag 42: identity hash", _LINK[:7] + b"\x00" + _LINK[8:], "forbidden-type"),
    ("tag 42: sha2-512 cut to 32 bytes", _LINK[:7] + b"\x13" + _LINK[8:], "forbidden-type"),
]

_KEYS = [keys.SigningKey(seed(number)) for number in (1, 2)]
_GENESIS_BODY = bodies.Genesis(
    name="a mesh for test vectors", roots=(_KEYS[0].public, _KEYS[1].public), time_ms=1_767_225_600_000,
    epoch_ms=15_000, nonce=seed(5)[:16], params={"quorum": 2, "young": True, "suite": "spiking"},
)  # fmt: skip
GENESIS = envelope.sign(_KEYS[0], _GENESIS_BODY, mesh=None, seq=0, prev=None, epoch=0, parents=())
_RECIPE: dict[str, int | bool | str] = {"lr_micro": 300, "layers": 4, "tied": True, "optimizer": "adamw"}
_CLAIMED: dict[str, Any] = {
    "task": link(50), "bases": (link(51),), "recipe": _RECIPE, "operator": "bandit", "why": "a wider middle layer",
    "intent": link(73), "seed": seed(39)[:8], "family": "CPU_X86_64", "fingerprint": seed(11), "outcome": "kept",
    "error": "",
    "metric": 1_234_567_890, "loss_root": seed(12), "loss_sum": 987_654_321_000, "state_root": seed(13),
    "states": (link(52, RAW), link(53)), "weights": link(54), "params": seed(14), "params_count": 1_000_000,
    "steps": 300, "flops": 10**15, "cpu_ms": 120_000, "curve": (5, 4, 3),
}  # fmt: skip
_ABSORBED: dict[str, Any] = {
    "task": link(64), "sources": (("config.json", link(65, RAW)), ("onnx/model.onnx", link(66))),
    "origin": "pypi:a-model==1.0", "licence": "Apache-2.0", "name": "a model", "head": "embedder", "modality": "text",
    "rule": "few-spike/1", "steps": 5, "state": tuple(sorted((link(67), link(68)))), "operator": "ask",
    "why": "asked for", "family": "CPU_X86_64", "fingerprint": seed(11), "outcome": "kept", "metric": 9_876_543,
    "loss_root": seed(35), "loss_sum": 55_000_000_000, "state_root": seed(36), "weights": link(69),
    "params": seed(37), "params_count": 22_713_216, "layers": 37, "sparsity_ppm": 812_000, "cpu_ms": 61_000,
    "source_bytes": 91_000_000, "shard_bytes": 23_500_000, "ops": 1_400_000_000, "groups": (0, 2, 7),
}  # fmt: skip
_MERGED: dict[str, Any] = {
    **_ABSORBED,
    "sources": (("00/model.onnx", link(65, RAW)), ("01/model.onnx", link(66)), ("base/model.onnx", link(71))),
    "operator": "merge", "inputs": tuple(sorted((link(67), link(68)))), "incomes": (8192, 1), "merging": "trimmed/1",
}  # fmt: skip
_CRASH = {
    **_CLAIMED, "outcome": "crashed", "error": "not finite at step 3", "bases": (), "states": (), "curve": (),
    **dict.fromkeys(("metric", "loss_root", "loss_sum", "state_root", "weights", "params")),
}  # fmt: skip

BODIES: list[tuple[str, bodies.Body]] = [
    ("join", bodies.Join(
        family="CPU_X86_64", device="a processor", memory_mb=32_768, cores=16, fingerprint=seed(11),
        anchor=seed(15), role="research", agent="spore-borg/0.1.0", invite=None, stamp=None, verify_bytes=10**9,
        verify_ops=4 * 10**9)),
    ("join with invitation and stamp", bodies.Join(
        family="RTX_3060", device="a card", memory_mb=12_288, cores=3584, fingerprint=seed(11), anchor=seed(16),
        role="verify", agent="", invite=(link(55), seed(17) * 2), stamp=seed(18)[:16], verify_bytes=0, verify_ops=0)),
    ("invite", bodies.Invite(key=seed(19), endowment=bodies.ONE, uses=1, until=900)),
    ("profile", bodies.Profile(
        display_name="Zoë 🍄", bio="grows", website="", avatar_url="", donation_address="")),
    ("seal", bodies.Seal(value=seed(20), round=3, digest=None)),
    ("seal with digest", bodies.Seal(value=seed(20), round=3, digest=seed(21))),
    ("task", bodies.Task(
        name="bytes", metric="validation loss", direction="min", unit="nano-bits per byte", sigma=1500,
        gain_min=3000, budget_flops=10**15, segments=10, blocks=64, block_tokens=4096, val_bytes=1_000_000,
        tolerance=50_000, data=link(56), evaluator=seed(22), spec={"vocab": 2048}, baseline=_RECIPE)),
    ("intent", bodies.Intent(task=link(50), bases=(link(51),), recipe=seed(23), until=12)),
    ("experiment", bodies.Experiment(**_CLAIMED)),
    ("experiment that crashed", bodies.Experiment(**_CRASH)),
    ("absorption", bodies.Absorption(**_ABSORBED)),
    ("refinement", bodies.Refinement(**{**_ABSORBED, "operator": "refine"}, base=link(70))),
    ("merge", bodies.Merge(**_MERGED, base=link(72))),
    ("merge without a base", bodies.Merge(**{**_MERGED, "sources": _MERGED["sources"][:2]}, base=None)),
    ("retract", bodies.Retract(target=link(70), why="its licence was read again")),
    ("announce", bodies.Announce(target=link(57))),
    ("attest_commit", bodies.AttestCommit(target=link(57), digest=seed(24), named=None)),
    ("attest_commit of a dispute", bodies.AttestCommit(target=link(57), digest=seed(24), named=(1, 9))),
    ("open", bodies.Open(
        target=link(57), commits=(link(58),), loss_secret=seed(25), losses=(10**12, 2 * 10**12),
        state_secret=seed(26), digests=(seed(27), seed(28)), tail=seed(29), inner=((0, 17, seed(30)),))),
    ("attest_reveal", bodies.AttestReveal(
        target=link(57), commit=link(58), nonce=seed(31)[:16], params=seed(32), losses=((3, 10**12),),
        segments=((0, 17, seed(27), seed(30), seed(28)),), steps=((7, 412),), cpu_ms=9000)),
    ("trace", bodies.Trace(target=link(57), segment=4, digests=(seed(33), seed(34)))),
    ("trace_states", bodies.TraceStates(target=link(57), segment=4, states=((1, link(59), link(60)),))),
]  # fmt: skip


def _sign(body: bodies.Body, author: int = 0, **other: Any) -> Record:
    context: dict[str, Any] = {
        "mesh": GENESIS.cid, "seq": 1 - author, "prev": None if author else GENESIS.cid, "epoch": 4,
        "parents": (GENESIS.cid,), **other,
    }  # fmt: skip
    return envelope.sign(_KEYS[author], body, **context)


def valid_records() -> list[tuple[str, bytes, Record]]:
    """(name, seed of the author's key, record): every kind, and the bounds of the envelope."""
    found = [("genesis", seed(1), GENESIS)]
    found += [(name, seed(1), _sign(body)) for name, body in BODIES]
    body = bodies.Announce(target=link(57))
    many = tuple(link(number) for number in range(100, 100 + PARENTS_MAX))
    found.append(("the first record of a second author", seed(2), _sign(body, author=1)))
    found.append((f"{PARENTS_MAX} parents", seed(1), _sign(body, parents=many)))
    found.append(("prev is not among the parents", seed(1), _sign(body, seq=2, prev=link(60))))
    found.append(("largest seq and epoch", seed(1), _sign(body, seq=1 << 40, prev=link(60), epoch=1 << 40)))
    return found


def signed(fields: dict[str, Any], key: keys.SigningKey | None = None) -> bytes:
    """Sign any map as if it were an envelope."""
    unsigned = {name: item for name, item in fields.items() if name != "sig"}
    digest = hashlib.sha256(canonical.encode(unsigned)).digest()
    return canonical.encode({**unsigned, "sig": (key or _KEYS[0]).sign(DOMAIN + digest)})


def _fields(record: Record) -> dict[str, Any]:
    fields: dict[str, Any] = canonical.decode(record.raw)
    return fields


def invalid_records() -> list[tuple[str, bytes, str]]:
    """(name, bytes, code): each breaks one rule and, where its fields allow, is signed well."""
    good = _fields(_sign(bodies.Announce(target=link(57))))
    a, b = sorted((link(61), link(62)))
    blob = link(61, RAW)
    changes: list[tuple[str, dict[str, Any], str]] = [
        ("version 2", {"v": 2}, "bad-version"),
        ("version true", {"v": True}, "bad-version"),
        ("unknown kind", {"kind": "ruling"}, "bad-kind"),
        ("kind is not text", {"kind": 7}, "bad-kind"),
        ("kind in capitals", {"kind": "Announce"}, "bad-kind"),
        ("author has 31 bytes", {"author": seed(1)[:31]}, "bad-envelope"),
        ("author is text", {"author": "a" * 32}, "bad-envelope"),
        ("seq is true", {"seq": True}, "bad-envelope"),
        ("seq is negative", {"seq": -1}, "bad-envelope"),
        ("seq is over its bound", {"seq": (1 << 40) + 1}, "bad-envelope"),
        ("epoch is null", {"epoch": None}, "bad-envelope"),
        ("epoch is over its bound", {"epoch": (1 << 40) + 1}, "bad-envelope"),
        ("parents is a map", {"parents": {}}, "bad-envelope"),
        ("a parent is text", {"parents": [str(a)]}, "bad-envelope"),
        ("a parent is a blob", {"parents": [blob]}, "bad-envelope"),
        ("prev is a blob", {"prev": blob}, "bad-envelope"),
        ("prev is bytes", {"prev": bytes(a)}, "bad-envelope"),
        ("mesh is null", {"mesh": None}, "bad-envelope"),
        ("mesh is a blob", {"mesh": blob}, "bad-envelope"),
        ("seq 1 without prev", {"prev": None}, "bad-sequence"),
        ("seq 0 with prev", {"seq": 0}, "bad-sequence"),
        ("no parents", {"parents": []}, "bad-parents"),
        ("parents unsorted", {"parents": [b, a]}, "bad-parents"),
        ("a parent twice", {"parents": [a, a]}, "bad-parents"),
        ("65 parents", {"parents": sorted(link(n) for n in range(100, 101 + PARENTS_MAX))}, "bad-parents"),
        ("a body field is missing", {"body": {}}, "bad-body"),
        ("a body field is superfluous", {"body": {**good["body"], "note": ""}}, "bad-body"),
        ("a body field has the wrong type", {"body": {"target": bytes(a)}}, "bad-body"),
        ("the body is a list", {"body": []}, "bad-body"),
    ]  # fmt: skip
    found = [(name, signed({**good, **change}), code) for name, change, code in changes]
    found += [(f"{name}: {note}", signed({**good, "kind": name, "body": body}), "bad-body")
              for name, note, body in _invalid_bodies()]  # fmt: skip
    root = _fields(GENESIS)
    found += [
        ("genesis with a mesh", signed({**root, "mesh": a}), "bad-envelope"),
        ("genesis with a parent", signed({**root, "parents": [a]}), "bad-envelope"),
        ("genesis in epoch 1", signed({**root, "epoch": 1}), "bad-envelope"),
        ("genesis with seq 1", signed({**root, "seq": 1, "prev": a}), "bad-envelope"),
        ("no sig", canonical.encode({name: good[name] for name in good if name != "sig"}), "bad-envelope"),
        ("one field more", signed({**good, "note": ""}), "bad-envelope"),
        ("sig has 63 bytes", canonical.encode({**good, "sig": good["sig"][:63]}), "bad-envelope"),
        ("a list instead of a map", canonical.encode([]), "bad-envelope"),
        ("sig of other content", canonical.encode({**good, "epoch": good["epoch"] + 1}), "bad-signature"),
        ("sig of another key", signed(good, _KEYS[1]), "bad-signature"),
        ("sig without the domain", _undomained(good), "bad-signature"),
        ("author is the neutral point", signed({**good, "author": b"\x01" + bytes(31)}), "bad-key"),
        ("author is y = p", signed({**good, "author": b"\xed" + b"\xff" * 30 + b"\x7f"}), "bad-key"),
        ("author is no point", signed({**good, "author": b"\x02" + bytes(31)}), "bad-key"),
    ]  # fmt: skip
    return found + _invalid_bytes(good)


def _undomained(good: dict[str, Any]) -> bytes:
    unsigned = {name: good[name] for name in good if name != "sig"}
    return canonical.encode(
        {**good, "sig": _KEYS[0].sign(hashlib.sha256(canonical.encode(unsigned)).digest())}
    )


def _invalid_bodies() -> list[tuple[str, str, dict[str, Any]]]:
    """(kind, what is wrong, body)."""
    by_kind: dict[str, dict[str, Any]] = {body.KIND: body.to_map() for _, body in reversed(BODIES)}
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("join", "an unknown role", {"role": "root"}),
        ("join", "an invitation of one part", {"invite": [link(55)]}),
        ("join", "cores are true", {"cores": True}),
        ("invite", "an endowment over its bound", {"endowment": 4 * bodies.ONE + 1}),
        ("profile", "a name of 65 bytes", {"display_name": "é" * 32 + "a"}),
        ("seal", "a value of 31 bytes", {"value": seed(20)[:31]}),
        ("task", "no segments", {"segments": 0}),
        ("task", "another direction", {"direction": "max"}),
        ("task", "a nested setting", {"spec": {"a": []}}),
        ("intent", "a negative epoch", {"until": -1}),
        ("intent", "the same base twice", {"bases": [link(51), link(51)]}),
        ("experiment", "a crash with a metric", {"outcome": "crashed"}),
        ("experiment", "kept without a metric", {"metric": None}),
        ("experiment", "the same base twice", {"bases": [link(51), link(51)]}),
        ("experiment", "a seed of nine bytes", {"seed": seed(39)[:9]}),
        ("experiment", "three bases", {"bases": [link(51), link(52), link(53)]}),
        ("absorption", "no sources", {"sources": []}),
        ("absorption", "a source above its directory", {"sources": [["../a", link(65)]]}),
        ("absorption", "a source with an absolute name", {"sources": [["/a", link(65)]]}),
        ("absorption", "a source below another", {"sources": [["a", link(65)], ["a/b", link(66)]]}),
        ("absorption", "sources unsorted", {"sources": [["b", link(65)], ["a", link(66)]]}),
        ("absorption", "a member twice", {"state": [link(67), link(67)]}),
        ("absorption", "33 time steps", {"steps": 33}),
        ("absorption", "no layer group", {"groups": []}),
        ("absorption", "layer groups unsorted", {"groups": [2, 0]}),
        ("absorption", "an unknown head", {"head": "oracle"}),
        ("refinement", "no base", {"base": None}),
        ("merge", "one input", {"inputs": [link(67)], "incomes": [1]}),
        ("merge", "inputs unsorted", {"inputs": sorted((link(67), link(68)), reverse=True)}),
        ("merge", "an input without a weight", {"incomes": [1]}),
        ("merge", "a weight of 0", {"incomes": [0, 1]}),
        ("merge", "an unknown rule", {"merging": "median/1"}),
        ("retract", "a target that is text", {"target": str(link(70))}),
        ("attest_commit", "a tier of 3", {"named": [3, 0]}),
        ("open", "no losses", {"losses": []}),
        ("open", "a loss of 2^62", {"losses": [1 << 62]}),
        ("attest_reveal", "a loss of 2^62", {"losses": [[0, 1 << 62]]}),
        ("attest_reveal", "an error above the bound", {"steps": [[1, 1_000_000_001]]}),
        ("trace", "segment 33", {"segment": 33}),
        ("trace_states", "step 0", {"states": [[0, link(59), link(60)]]}),
    ]  # fmt: skip
    return [(kind, note, {**by_kind[kind], **change}) for kind, note, change in changes]


def _invalid_bytes(good: dict[str, Any]) -> list[tuple[str, bytes, str]]:
    """A good record in other bytes."""
    raw = signed(good)
    first, rest = raw[:4], raw[4:]  # 0xaa, "v", 1: ten fields of which v is the first
    if first != b"\xaa\x61v\x01":
        raise ValueError("the first field is not v")
    return [
        ("a byte follows the record", raw + b"\0", "not-cbor"),
        ("the record is cut off", raw[:-1], "not-cbor"),
        ("v in two bytes", b"\xaa\x61v\x18\x01" + rest, "not-canonical"),
        ("v twice", b"\xab\x61v\x01\x61v\x01" + rest, "not-canonical"),
        ("a map of indefinite length", b"\xbf" + raw[1:] + b"\xff", "not-canonical"),
        ("v is the last field", b"\xaa" + rest + b"\x61v\x01", "not-canonical"),
        ("v is 1.0", b"\xaa\x61v\xf9\x3c\x00" + rest, "forbidden-type"),
        ("one byte over the limit", b"\0" * (RECORD_SIZE_BYTES_MAX + 1), "too-large"),
    ]


Offer = tuple[str, list[Record], Record, Cid, int, str | None]


def offered_records() -> list[Offer]:
    """(name, records held, record offered, mesh, local epoch, code or None)."""
    body = bodies.Announce(target=link(57))
    mesh = GENESIS.cid
    other = envelope.sign(_KEYS[1], _GENESIS_BODY, mesh=None, seq=0, prev=None, epoch=0, parents=())
    second = _sign(body)
    third = _sign(body, seq=2, prev=second.cid, parents=(second.cid,))
    guest = _sign(body, author=1, epoch=3)
    twin = _sign(bodies.Announce(target=link(63)))
    held = [GENESIS, second]
    return [
        ("genesis, first of all", [], GENESIS, mesh, 0, None),
        ("genesis again", [GENESIS], GENESIS, mesh, 0, None),
        ("second record", [GENESIS], second, mesh, 4, None),
        ("second record again", held, second, mesh, 4, None),
        ("third record", held, third, mesh, 4, None),
        ("another author's first", held, guest, mesh, 4, None),
        ("seq twice: admitted, a view finds it", held, twin, mesh, 4, None),
        ("as far ahead as may be", [GENESIS], second, mesh, 4 - FUTURE_EPOCHS_MAX, None),
        ("one epoch further", [GENESIS], second, mesh, 3 - FUTURE_EPOCHS_MAX, "future-epoch"),
        ("long ago", [GENESIS], second, mesh, 1 << 40, None),
        ("another mesh's genesis", [GENESIS], other, mesh, 4, "second-genesis"),
        ("a record of this mesh, offered to another", [other], second, other.cid, 4, "wrong-mesh"),
        ("before the genesis", [], second, mesh, 4, "missing-parents"),
        ("before its parent", [GENESIS], third, mesh, 4, "missing-parents"),
        ("parents here, prev absent", [GENESIS], _sign(body, seq=2, prev=link(60)), mesh, 4, "missing-parents"),
        ("too far ahead and parents absent", [], second, mesh, 0, "future-epoch"),
        ("prev is another author's", [*held, guest], _sign(body, author=1, seq=2, prev=second.cid), mesh, 4,
         "bad-sequence"),
        ("seq leaves one out", held, _sign(body, seq=3, prev=second.cid), mesh, 4, "bad-sequence"),
        ("seq of prev again", held, _sign(body, seq=1, prev=second.cid), mesh, 4, "bad-sequence"),
        ("earlier than a parent", held, _sign(body, author=1, epoch=3, parents=(second.cid,)), mesh, 4,
         "epoch-before-parent"),
        ("earlier than prev", held, _sign(body, seq=2, prev=second.cid, epoch=3), mesh, 4, "epoch-before-parent"),
    ]  # fmt: skip
