"""Records per CPU-second: ``python -m tests.bench.records [--repeats 7] [--seconds 0.2]`` prints JSON.

Every figure is a median over the repeats, with the smallest and largest beside it: that is its noise.
CPU time of this process only, one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

from spore_borg.records import bodies, canonical, envelope, keys
from spore_borg.records.cid import Cid
from tests.bench._rows import emit

KEY = keys.SigningKey(b"b" * 32)


def link(number: int) -> Cid:
    """A link to something that does not exist."""
    return Cid.of(number.to_bytes(4, "big"))


def samples() -> dict[str, envelope.Record]:
    """A small record, of which a mesh has the most, and a large one."""
    genesis = envelope.sign(
        KEY,
        bodies.Genesis(name="bench", roots=(KEY.public,), time_ms=0, epoch_ms=1000, nonce=bytes(16), params={}),
        mesh=None, seq=0, prev=None, epoch=0, parents=(),
    )  # fmt: skip
    seal = bodies.Seal(value=bytes(32), round=3, digest=bytes(32))
    experiment = bodies.Experiment(
        task=link(1), bases=(link(2),), recipe={f"setting_{n}": n * 1000 for n in range(30)}, operator="bandit",
        why="a wider middle layer", intent=link(4), seed=bytes(8), family="CPU_X86_64", fingerprint=bytes(32),
        outcome="kept", error="", metric=1_234_567_890, loss_root=bytes(32), loss_sum=10**12, state_root=bytes(32),
        states=tuple(link(n) for n in range(9)), weights=link(3), params=bytes(32), params_count=10**6, steps=300,
        flops=10**15, cpu_ms=10**5, curve=tuple(range(10**9, 10**9 + 40)),
    )  # fmt: skip
    parents = tuple(link(number) for number in range(10, 15))
    return {
        body.KIND: envelope.sign(
            KEY, body, mesh=genesis.cid, seq=1, prev=genesis.cid, epoch=4, parents=parents
        )
        for body in (seal, experiment)
    }


def rate(action: Callable[[], object], seconds: float, repeats: int) -> list[float]:
    """Times per CPU-second, of every repeat."""
    found = []
    for _ in range(repeats):
        count, began_s = 0, time.process_time()
        while time.process_time() - began_s < seconds:
            for _ in range(20):
                action()
            count += 20
        found.append(count / (time.process_time() - began_s))
    return found


def figure(found: list[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "per_cpu_s": round(statistics.median(found), 1),
        "least": round(min(found), 1),
        "most": round(max(found), 1),
    }


def run(seconds: float, repeats: int) -> dict[str, object]:
    """All figures."""
    message, result = b"m" * 64, {}
    signature = KEY.sign(message)
    for name, record in samples().items():
        fields = canonical.decode(record.raw)
        actions: dict[str, Callable[[], object]] = {
            "parse_and_verify": lambda record=record: envelope.parse(record.raw),
            "parse_trusted": lambda record=record: envelope.parse(record.raw, trusted=True),
            "decode": lambda record=record: canonical.decode(record.raw),
            "encode": lambda fields=fields: canonical.encode(fields),
            "sign_and_verify": lambda record=record: envelope.sign(
                KEY, record.body, mesh=record.mesh, seq=1, prev=record.prev, epoch=4, parents=record.parents
            ),
        }  # type: ignore[misc, dict-item]
        figures: dict[str, object] = {}
        for key, action in actions.items():
            found = rate(action, seconds, repeats)
            figures[key] = figure(found)
            if (name, key) == ("seal", "sign_and_verify"):
                emit("sign_verify", found, f"a seal with five parents, {len(record.raw)} B")
        result[name] = {"size_bytes": len(record.raw), **figures}
    result["signature"] = {
        "sign": figure(rate(lambda: KEY.sign(message), seconds, repeats)),
        "verify": figure(rate(lambda: keys.verify(KEY.public, message, signature), seconds, repeats)),
    }
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "repeats": repeats,
        "rates": result,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU seconds of one repeat of one figure")
    arguments = parser.parse_args()
    json.dump(run(arguments.seconds, arguments.repeats), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
