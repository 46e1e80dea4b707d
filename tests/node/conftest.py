"""A node's directory with an open hub, and the simulated world's records in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spore_borg.home import Home
from spore_borg.node import setup
from spore_borg.node.hub import Hub
from spore_borg.records.keys import SigningKey
from spore_borg.store.log import Log
from tests.node.nodes import NodeProcess
from tests.world import World, h

EPOCH_MS = 60_000
ABSORBING = ("--no-explorer", "--verify-only", "--listen", "127.0.0.1:0", "--epoch-ms", "1000")


@pytest.fixture
def open_hub(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Open the hub of a directory of this name, with a mesh of its own or by a ticket; closed at the end."""
    hubs: list[Hub] = []

    def opened(name: str = "1", join: str | None = None, epoch_ms: int = EPOCH_MS) -> Hub:
        hub, _ = setup.open_hub(Home(tmp_path / name).create(), join, epoch_ms=epoch_ms, name="home")
        hubs.append(hub)
        return hub

    yield opened
    for hub in hubs:
        hub.close()


@pytest.fixture
def hub_in(tmp_path: Path) -> Iterator[Callable[[World, str], Hub]]:
    """The hub of one of the nodes of a simulated world, with all its records."""
    hubs: list[Hub] = []

    def opened(world: World, name: str) -> Hub:
        node = world.nodes[name]
        home = Home(tmp_path / f"{name}{len(hubs)}").create()
        with Log(home.log) as log:
            log.append(world.records)
        hub = Hub(home, SigningKey(h("key", node.name, node.seed)), world.mesh)
        hubs.append(hub)
        return hub

    yield opened
    for hub in hubs:
        hub.close()


@pytest.fixture
def start_absorbing(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start nodes that fetch nothing; ``suite``: small, or full (four times the items); ended at the end."""
    running: list[NodeProcess] = []

    def started(name: str, *options: object, settings: str = "", suite: str = "small") -> NodeProcess:
        home = tmp_path / name
        if not home.exists():
            home.mkdir(mode=0o700)
            (home / "config.toml").write_text(f'suite = "{suite}"\noffline = true\n{settings}')
        running.append(NodeProcess(home, *ABSORBING, *options))
        return running[-1]

    yield started
    for node in running:
        node.close()
