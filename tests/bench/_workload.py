"""Real signed records for the measurements: experiments alone, or the mix of kinds that a mesh writes.

The shares of the mix and the sizes of the bodies are those of a three-node mesh on the task pico, counted in its log.
Hashes and nonces are random bytes, so that compression gains nothing that it would not gain in earnest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from spore_borg.records import bodies
from spore_borg.records.cid import RAW, Cid
from spore_borg.records.envelope import Record, sign
from spore_borg.records.keys import SigningKey
from workspace.recipe import BASELINE_NANO

SEED = 20_260
MIX = ("seal",) * 5 + ("attest_commit",) * 4 + ("attest_reveal",) * 4 + ("experiment", "intent", "open") * 2
AUTHORS = 4
EPOCH_MS = 1_000
PAST_EPOCHS = 100_000  # the mesh is this old, so that no epoch below lies ahead of the clock
PER_EPOCH = 4  # records
OLD = 10  # early records of an author whom nobody names as seen: a node can lack them and hold all later ones
TASKS = tuple(Cid.of(bytes([number])) for number in range(3))
FINGERPRINTS = tuple(bytes([number]) * 32 for number in range(4))


def _cid(rng: random.Random) -> Cid:
    return Cid.of(rng.randbytes(16))


def experiment(rng: random.Random) -> bodies.Experiment:
    """A run of ten segments, as the researcher writes it."""
    recipe = {**BASELINE_NANO, "width": 16 * rng.randint(2, 12)}
    falling = sorted((rng.randint(1_800_000_000, 8_000_000_000) for _ in range(24)), reverse=True)
    return bodies.Experiment(
        task=rng.choice(TASKS), bases=(_cid(rng),), recipe=recipe, operator="mutate",
        why=f"width {recipe['width']}: a wider middle gave more than a longer schedule",
        intent=_cid(rng), seed=rng.randbytes(8),
        family="CPU_X86_64", fingerprint=rng.choice(FINGERPRINTS), outcome=rng.choice(("kept", "discarded")), error="",
        metric=falling[-1], loss_root=rng.randbytes(32), loss_sum=rng.randint(10**12, 10**14),
        state_root=rng.randbytes(32),
        states=tuple(Cid.of(rng.randbytes(8), RAW) for _ in range(9)), weights=Cid.of(rng.randbytes(8), RAW),
        params=rng.randbytes(32), params_count=rng.randint(10**5, 10**6), steps=300, flops=rng.randint(10**10, 10**11),
        cpu_ms=rng.randint(10**3, 10**5), curve=tuple(falling),
    )  # fmt: skip


def _open(rng: random.Random) -> bodies.Open:
    return bodies.Open(
        target=_cid(rng), commits=(_cid(rng), _cid(rng)), loss_secret=rng.randbytes(32),
        losses=tuple(rng.randint(10**11, 10**12) for _ in range(32)), state_secret=rng.randbytes(32),
        digests=tuple(rng.randbytes(32) for _ in range(11)), tail=rng.randbytes(32),
        inner=((rng.randint(0, 9), 7, rng.randbytes(32)), (rng.randint(0, 9), 9, rng.randbytes(32))),
    )  # fmt: skip


def _reveal(rng: random.Random) -> bodies.AttestReveal:
    return bodies.AttestReveal(
        target=_cid(rng), commit=_cid(rng), nonce=rng.randbytes(16), params=rng.randbytes(32),
        losses=((3, rng.randint(10**11, 10**12)), (17, rng.randint(10**11, 10**12))),
        segments=((4, 7, rng.randbytes(32), rng.randbytes(32), rng.randbytes(32)),), steps=(), cpu_ms=300,
    )  # fmt: skip


BODIES: dict[str, Callable[[random.Random], bodies.Body]] = {
    "seal": lambda rng: bodies.Seal(value=rng.randbytes(32), round=rng.randint(0, 10**4), digest=rng.randbytes(32)),
    "attest_commit": lambda rng: bodies.AttestCommit(target=_cid(rng), digest=rng.randbytes(32), named=None),
    "attest_reveal": _reveal,
    "experiment": experiment,
    "intent": lambda rng: bodies.Intent(
        task=rng.choice(TASKS), bases=(), recipe=rng.randbytes(32), until=rng.randint(1, 10**4)
    ),
    "open": _open,
}  # fmt: skip


class Chain:
    """Writes the records of several authors, each naming the last ones of the others as seen."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.keys = [SigningKey(rng.randbytes(32)) for _ in range(AUTHORS + 1)]
        self.last: dict[bytes, Record] = {}
        began_ms = time.time_ns() // 1_000_000 - PAST_EPOCHS * EPOCH_MS
        body = bodies.Genesis(
            name="bench", roots=tuple(key.public for key in self.keys[:AUTHORS]), time_ms=began_ms, epoch_ms=EPOCH_MS,
            nonce=rng.randbytes(16), params={},
        )  # fmt: skip
        self.genesis = sign(self.keys[0], body, mesh=None, seq=0, prev=None, epoch=0, parents=())
        self.last[self.keys[0].public] = self.genesis

    def write(self, key: SigningKey, body: bodies.Body, epoch: int) -> Record:
        """The author's next record."""
        before = self.last.get(key.public)
        seen = [record for who, record in self.last.items() if who != key.public][-2:]
        record = sign(
            key, body, mesh=self.genesis.cid, seq=0 if before is None else before.seq + 1,
            prev=None if before is None else before.cid, epoch=epoch,
            parents=tuple(r.cid for r in seen) or (self.genesis.cid,),
        )  # fmt: skip
        self.last[key.public] = record
        return record


def mesh(count: int, kinds: tuple[str, ...] = MIX) -> tuple[list[Record], list[Record]]:
    """``count`` records that arrive in order (genesis first), and ``OLD`` early ones more that nobody names."""
    chain = Chain(random.Random(SEED))
    records, old = [chain.genesis], []
    last = None
    for number in range(1, count):
        kind = kinds[number % len(kinds)] if len(kinds) == 1 else chain.rng.choice(kinds)
        key = chain.keys[number % AUTHORS]
        records.append(chain.write(key, BODIES[kind](chain.rng), 1 + number // PER_EPOCH))
        if number % max(1, count // 20) == 0 and len(old) < OLD:
            record = sign(
                chain.keys[AUTHORS], BODIES["seal"](chain.rng), mesh=chain.genesis.cid, seq=len(old),
                prev=last and last.cid, epoch=1 + number // PER_EPOCH, parents=(chain.genesis.cid,),
            )  # fmt: skip
            old.append(record)
            last = record
    return records, old
