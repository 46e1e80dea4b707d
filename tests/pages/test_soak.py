"""Viewers while records arrive: every viewer hears of them, and the explorer's memory stays flat.

``SPORE_BORG_SOAK_S`` sets how long the slow one lasts (600 s: what docs/internals/explorer.md reports).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.pages import soak

# The plot reads every run, so what it holds meanwhile grows with the records: by about 5 MiB in the ten minutes. A leak
# of a tenth of a KiB an event would be over this.
GROWTH_KIB_MAX = 10 * 1024
OVER_FRESH_KIB_MAX = 16 * 1024  # a hundred open streams, and a heap that has seen some use

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")


def check(result: soak.Result, viewers: int) -> None:
    """What holds however long it lasts, on however slow a machine."""
    assert result.errors == []
    assert result.records > 0
    assert len(result.events) == viewers
    assert min(result.events.values()) >= 2  # each was told, and told again
    assert result.reads > 0
    early, late = result.growth_kib()
    assert late - early < GROWTH_KIB_MAX
    assert late - result.fresh_kib < OVER_FRESH_KIB_MAX


def test_some_seconds(tmp_path: Path) -> None:
    options = soak.parse(["--duration", "8", "--viewers", "25", "--readers", "3", "--rate", "50"])
    result = soak.soak(tmp_path / "home", options)
    print(soak.said(result, options))
    check(result, 25)


@pytest.mark.slow
def test_ten_minutes(tmp_path: Path) -> None:
    duration_s = float(os.environ.get("SPORE_BORG_SOAK_S", "600"))
    options = soak.parse(["--duration", str(duration_s)])
    result = soak.soak(tmp_path / "home", options)
    print(soak.said(result, options))
    check(result, 100)
    assert result.records >= 0.9 * 50 * duration_s
    assert min(result.events.values()) >= duration_s / 2  # each was told more often than every two seconds
