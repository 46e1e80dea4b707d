"""The control socket: nothing that its owner types or another version sends may end the node."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.errors import EXIT_NOT_ALLOWED, EXIT_USAGE, BorgError, NodeUnreachable, NotAllowed
from spore_borg.node import control, control_client


async def status() -> dict[str, Any]:
    return {"pid": 1}


async def connect(address: str) -> str:
    return address


async def ticket(invite: bool = True) -> str:
    if invite:
        raise NotAllowed(detail="No trust yet.")
    return "borg1"


HANDLERS: dict[str, control.Handler] = {"status": status, "connect": connect, "ticket": ticket}


def serving(home: Path, then: Callable[[], Awaitable[None]]) -> None:
    """Serve the handlers in a directory while ``then`` runs."""

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(control.serve, home / "control.sock", HANDLERS)
                await then()
                nursery.cancel_scope.cancel()

    trio.run(main)


async def ask(home: Path, op: str, **params: object) -> Any:
    return await trio.to_thread.run_sync(lambda: control_client.ask(home, op, **params))


def send(home: Path, raw: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(20)
        wire.connect(str(home / "control.sock"))
        try:
            wire.sendall(raw)
            wire.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has read enough and answered
        with wire.makefile("rb") as lines:
            return dict(json.loads(lines.readline()))


def test_answers_errors_and_the_owner_only(tmp_path: Path) -> None:
    async def then() -> None:
        assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600
        assert await ask(tmp_path, "status") == {"pid": 1}
        assert await ask(tmp_path, "connect", address="h:1") == "h:1"
        assert await ask(tmp_path, "ticket", invite=False) == "borg1"
        with pytest.raises(BorgError, match="No trust yet") as refused:
            await ask(tmp_path, "ticket")
        assert refused.value.exit_code == EXIT_NOT_ALLOWED

    serving(tmp_path, then)
    assert not (tmp_path / "control.sock").exists()
    with pytest.raises(NodeUnreachable):
        control_client.ask(tmp_path, "status")


BAD = [
    b"", b"\n", b"\xff\xfe\n", b"null\n", b"[]\n", b'"status"\n', b"{}\n", b'{"op": null}\n', b'{"op": ["status"]}\n',
    b'{"op": "stop"}\n', b'{"op": "status", "more": 1}\n', b'{"op": "connect"}\n', b'{"op": "connect", "address": 1}\n',
    b'{"op": "connect", "address": ["h"]}\n', b'{"op": "ticket", "invite": 1}\n', b'{"op": "status"', b"[" * 60_000,
    b"{" * 70_000, b'{"op": "connect", "address": "' + b"x" * 70_000 + b'"}\n', b"9" * 65_536,
]  # fmt: skip


def test_what_is_no_request_is_told_and_the_node_lives(tmp_path: Path) -> None:
    async def then() -> None:
        for raw in BAD:
            answer = await trio.to_thread.run_sync(send, tmp_path, raw)
            assert answer["error"]["code"] == EXIT_USAGE, raw[:60]
            assert len(answer["error"]["message"]) < 500
        assert await ask(tmp_path, "status") == {"pid": 1}

    serving(tmp_path, then)


def test_an_asker_that_goes_away_or_says_nothing_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.2)

    async def then() -> None:
        mute = [await trio.open_unix_socket(str(tmp_path / "control.sock")) for _ in range(20)]
        gone = await trio.open_unix_socket(str(tmp_path / "control.sock"))
        await gone.send_all(b'{"op": "status"}\n')
        await gone.aclose()
        assert await ask(tmp_path, "status") == {"pid": 1}
        for stream in mute:
            assert await stream.receive_some() == b""  # cut off, after its time
            await stream.aclose()

    serving(tmp_path, then)


def test_a_socket_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(tmp_path / "control.sock"))
    left.close()

    async def then() -> None:
        assert await ask(tmp_path, "status") == {"pid": 1}

    serving(tmp_path, then)
