"""Shared by all tests: the seed that a random test prints, and when a browser test may be skipped."""

from __future__ import annotations

import os
import random
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed, printed, so that a failure can be repeated with SPORE_BORG_SEED."""
    value = int(os.environ.get("SPORE_BORG_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"{request.node.name}: SPORE_BORG_SEED={value}")
    return value


@pytest.fixture
def rng(seed: int) -> random.Random:
    """A generator on the printed seed."""
    return random.Random(seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip browser tests where there is no browser, except where one is demanded: there they fail."""
    there = any(shutil.which(name) for name in BROWSERS) and shutil.which("chromedriver")
    if there or os.environ.get("SPORE_BORG_REQUIRE_BROWSER"):
        return
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason="needs Chromium and chromedriver"))
