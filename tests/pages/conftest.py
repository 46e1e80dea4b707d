"""Homes in the four states, made once a run, and ways to ask the explorer for pages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest

from explorer.app import make_app
from tests.pages import fixtures

BIG = 100_000


@dataclass(frozen=True)
class Client:
    """Asks the application directly, without a socket."""

    home: Path
    base: str = "http://127.0.0.1:8470"

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        """One request."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=make_app(self.home), raise_app_exceptions=False)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url=self.base) as client:
                return await client.request(method, path, headers=headers)

        return anyio.run(ask)


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A home by the name of its state; made on first use."""
    root = tmp_path_factory.mktemp("homes")
    makers: dict[str, Callable[[Path], Path]] = {
        "empty": fixtures.empty,
        "one": fixtures.one,
        "hostile": fixtures.hostile,
        "mesh": lambda path: fixtures.mesh(path, 2_000),
        "big": lambda path: fixtures.mesh(path, BIG),
    }
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = makers[name](root / name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def client(homes: Callable[[str], Path]) -> Callable[[str], Client]:
    """A client by the name of a state."""
    return lambda name: Client(homes(name))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Start the explorer as its own process on a home; gives its address."""
    started: list[subprocess.Popen[str]] = []

    def start(home: Path) -> str:
        command = [sys.executable, "-m", "explorer", "--home", str(home), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("explorer: http://localhost:"), line
        return line.split()[1].rstrip("/").replace("localhost", "127.0.0.1")

    yield start
    for process in started:
        process.terminate()
        status = process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
        assert status == 0
