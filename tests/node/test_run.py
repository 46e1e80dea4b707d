"""`borg run` as a process where something is not as it should be: ports, inviters, time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trio

from spore_borg.errors import NodeUnreachable
from spore_borg.node.pages import AGAIN_AFTER_S
from spore_borg.node.run import maker_of
from spore_borg.node.ticket import Ticket
from spore_borg.node.transport import Endpoint, TlsTransport
from spore_borg.records.cid import Cid
from spore_borg.records.keys import SigningKey
from spore_borg.runner.client import Worker
from spore_borg.store.log import Log
from tests.node.nodes import CODE, ROOT, NodeProcess, all_gone


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def nobodys_ticket() -> str:
    """A ticket of a mesh whose inviting node is gone."""
    with listening() as sock:
        port = sock.getsockname()[1]
    return Ticket(Cid.of(b"gone"), (("127.0.0.1", port),), SigningKey(b"g" * 32).public, None).text()


def test_a_taken_explorer_port_is_passed_over_and_seconds_end_the_node(tmp_path: Path) -> None:
    with listening() as taken:
        port = taken.getsockname()[1]
        node = NodeProcess(
            tmp_path / "n", "--no-train", "--listen", "127.0.0.1:0", "--explorer-port", port, "--seconds", 12
        )
        try:
            url = node.wait("explorer")["url"]
            assert f":{port}/" not in url
            with urllib.request.urlopen(f"{url}frontier.json", timeout=30) as answer:
                assert json.load(answer)["rows"] == []
            children = node.children()
            assert len(children) == 1 and node.ended(60) == 0
            assert all_gone(children)
        finally:
            node.close()
    with Log.open_readonly(tmp_path / "n" / "log.sqlite") as log:
        assert [record.kind for _, record in log.scan()] == ["genesis"]


def test_a_node_whose_inviter_is_away_says_so_keeps_trying_and_can_be_stopped(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "n", "--join", nobodys_ticket(), "--listen", "127.0.0.1:0", "--no-explorer")
    try:
        assert "inviting node" in node.wait("syncing")["text"]
        with pytest.raises(AssertionError, match="no event"):
            node.wait("joined", limit_s=1.0)
        assert node.process.poll() is None
        assert node.interrupt(15) in (0, 130)
    finally:
        node.close()


def test_the_port_of_the_settings_gives_way_to_the_next_free_one(tmp_path: Path) -> None:
    home = tmp_path / "n"
    home.mkdir()
    with listening() as taken:
        port = taken.getsockname()[1]
        (home / "config.toml").write_text(f"listen_port = {port}\n")
        node = NodeProcess(home, "--no-train", "--no-explorer")
        try:
            started = node.wait("started")["text"]
            assert port < int(started.rpartition(":")[2]) < port + 100
            assert node.interrupt() in (0, 130)
        finally:
            node.close()


@pytest.mark.parametrize("options", [("--listen", "127.0.0.1:{port}"), ("--join", "borg1nothing")])
def test_what_cannot_start_says_what_to_do(tmp_path: Path, options: tuple[str, str]) -> None:
    with listening() as taken:
        words = [option.format(port=taken.getsockname()[1]) for option in options]
        done = subprocess.run(
            [sys.executable, "-c", CODE, "--home", str(tmp_path / "n"), "run", "--no-explorer", *words],
            capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert (
        "Traceback" not in done.stderr and done.stderr.startswith("borg: ") and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "\ud800", "é" * 64])
def test_an_address_that_cannot_be_looked_up_is_unreachable(host: str) -> None:
    with pytest.raises(NodeUnreachable):
        trio.run(TlsTransport(b"s" * 32).dial, Endpoint(host, 1), None)


def test_a_card_is_never_used_by_two_workers() -> None:
    judge, second = Worker(), Worker()
    assert maker_of("CPU_X86_64", judge, second) is second
    for family in ("RTX_3060", "H100", "MPS", "CUDA_UNKNOWN"):
        assert maker_of(family, judge, second) is judge


def test_a_full_disk_ends_the_node_with_one_sentence(tmp_path: Path) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); {CODE}"
    done = subprocess.run(
        [sys.executable, "-c", code, "--home", str(tmp_path / "n"), "run", "--no-train", "--no-explorer",
         "--listen", "127.0.0.1:0", "--seconds", "20"],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("borg: ") and done.stderr.count("\n") == 1 and "disk space" in done.stderr


def test_pages_that_cannot_be_served_are_told_once_and_the_node_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "n"
    home.mkdir()
    (home / "config.toml").write_text('explorer_bind = "192.0.2.1"\n')  # nobody's address
    node = NodeProcess(home, "--no-train", "--listen", "127.0.0.1:0", "--explorer-port", 0)
    try:
        assert "192.0.2.1" in node.wait("warning")["text"]
        with pytest.raises(AssertionError, match="no event"):
            node.wait("warning", limit_s=AGAIN_AFTER_S + 4)
        assert node.process.poll() is None and node.interrupt() in (0, 130)
    finally:
        node.close()
