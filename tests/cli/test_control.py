"""The command line's end of the control socket, against a server of a few lines."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spore_borg.cli import control
from spore_borg.errors import NodeUnreachable, TimedOut

from .conftest import Borg


@contextmanager
def node(home: Path, answer: bytes | None) -> Iterator[list[Any]]:
    """A node that gives one answer to every request; None: it never answers."""
    requests: list[Any] = []
    done = threading.Event()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home / "control.sock"))
    server.listen()
    server.settimeout(10)

    def serve() -> None:
        wire, _ = server.accept()
        with wire:
            requests.append(json.loads(wire.makefile("rb").readline()))
            if answer is None:
                done.wait(10)
            else:
                for start in range(0, len(answer), 1000):
                    wire.sendall(answer[start : start + 1000])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield requests
    finally:
        done.set()
        thread.join()
        server.close()


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def test_a_request_carries_its_parameters(tmp_path: Path) -> None:
    with node(tmp_path, line({"result": {"peers": ["x" * 5000]}})) as requests:
        assert control.call(tmp_path, "connect", address="h:1") == {"peers": ["x" * 5000]}
    assert requests == [{"op": "connect", "address": "h:1"}]


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable):
        control.call(tmp_path, "status")
    assert control.running(tmp_path) is None


def test_a_socket_left_by_a_killed_node(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NodeUnreachable):
        control.call(tmp_path, "status")


def test_a_node_that_hangs_up(tmp_path: Path) -> None:
    with node(tmp_path, b""), pytest.raises(NodeUnreachable):
        control.call(tmp_path, "status")


def test_a_node_that_never_answers(tmp_path: Path) -> None:
    with node(tmp_path, None), pytest.raises(TimedOut):
        control.call(tmp_path, "status", timeout_s=0.2)


def test_an_error_of_the_node_is_ours(borg: Borg, tmp_path: Path) -> None:
    refusal = {"error": {"code": 8, "kind": "NotAllowed", "message": "Not a root."}}
    with node(tmp_path, line(refusal)):
        result = borg("--home", tmp_path, "ticket", "--json")
    assert result.code == 8 and result.value["error"]["message"] == "Not a root."


def test_ticket_alone_on_a_line(borg: Borg, tmp_path: Path) -> None:
    with node(tmp_path, line({"result": "borg1abc"})) as requests:
        assert borg("--home", tmp_path, "ticket").out == "borg1abc\n"
    assert requests == [{"op": "ticket", "invite": True}]


def test_peers_as_a_table(borg: Borg, tmp_path: Path) -> None:
    peer = {"node": "abcdefghijkl", "agent": "ann\x1b", "address": "127.0.0.1:9", "latency_ms": 3}
    with node(tmp_path, line({"result": [peer]})):
        text = borg("--home", tmp_path, "peers").out
    assert "abcdefgh" in text and "127.0.0.1:9" in text and "\x1b" not in text
