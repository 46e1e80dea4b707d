"""A short run of every harness: seeded mutations everywhere, coverage-guided where atheris is installed."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import records

SEED = 20_260_101


def mutate(raw: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to four small changes, or a splice with another input."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        how = chance.randrange(6)
        if how == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif how == 1 and at < len(data):
            data[at] = chance.choice(
                b"\x00\x17\x18\x1b\x1f\x40\x58\x5f\x60\x7f\x80\x9f\xa0\xbf\xc2\xd8\xf4\xf6\xf9\xfb\xff"
            )
        elif how == 2:
            del data[at : at + chance.randint(1, 9)]
        elif how == 3:
            data[at:at] = chance.randbytes(chance.randint(1, 4))
        elif how == 4:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            data[at:at] = other[start : start + chance.randint(1, 40)]
        else:
            data[at:] = chance.choice(others)[at:]
    return bytes(data)


@pytest.mark.parametrize("name", sorted(records.HARNESSES))
def test_seeded_mutations(name: str) -> None:
    print(f"seed {SEED}")
    chance, inputs, harness = random.Random(SEED), records.seeds(name), records.HARNESSES[name]
    for raw in inputs:
        harness(raw)
    for _ in range(20_000):
        raw = mutate(chance.choice(inputs), chance, inputs)
        try:
            harness(raw)
        except Exception:
            print(f"{name}: {raw.hex()}")
            raise


@pytest.mark.parametrize("name", sorted(records.HARNESSES))
def test_a_short_coverage_guided_run(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (it has no build for this platform or Python)")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, raw in enumerate(records.seeds(name)):
        (corpus / f"{number:03}").write_bytes(raw)
    command = [sys.executable, str(Path(records.__file__)), name, str(corpus)]
    limits = [f"-seed={SEED}", "-runs=20000", "-max_total_time=3", "-rss_limit_mb=1024", "-timeout=5"]
    done = subprocess.run(
        [*command, *limits, f"-artifact_prefix={tmp_path}/"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
