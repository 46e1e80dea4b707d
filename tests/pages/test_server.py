"""The running server: headers, caching, live news, limits, and that it never touches what it reads."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from explorer.__main__ import main as serve_main
from explorer.live import Hub
from spore_borg.limits import VIEWERS_MAX
from tests.pages import fixtures
from tests.pages.conftest import Client


def bump(home: Path, version: int, live: str | None = None) -> None:
    """What a node does when something happens."""
    db = sqlite3.connect(home / "views.sqlite")
    with db:
        db.execute("UPDATE meta SET value=? WHERE key='version'", (str(version),))
        if live is not None:
            db.execute("INSERT OR REPLACE INTO live VALUES('run', ?)", (live,))
    db.close()


class Stream:
    """One open event stream."""

    def __init__(self, base: str, path: str = "/events", last: str | None = None) -> None:
        parts = urlsplit(base)
        self.connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        self.connection.request("GET", path, headers={"Last-Event-ID": last} if last else {})
        self.response = self.connection.getresponse()

    def event(self) -> dict[str, str]:
        """The next event's fields."""
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline().decode().rstrip("\n")
            if not line and "event" in fields:
                return fields
            if line and not line.startswith((":", "retry")):
                key, _, value = line.partition(": ")
                fields[key] = value

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_every_answer_carries_the_safety_headers(client: Callable[[str], Client], tmp_path: Path) -> None:
    (tmp_path / "views.sqlite").write_bytes(b"damaged" * 999)
    asked = [
        client("one").get(p) for p in ("/", "/overview.json", "/static/explorer.css", "/nothing", "/?x=y")
    ]
    asked += [client("one").get("/", method="POST"), Client(tmp_path).get("/")]
    asked += [Client(client("one").home, "http://evil.example:8470").get("/")]
    assert [a.status_code for a in asked] == [200, 200, 200, 404, 400, 405, 503, 421]
    for answer in asked:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers
    assert asked[5].headers["allow"] == "GET, HEAD"


def test_only_this_machine_by_name(client: Callable[[str], Client]) -> None:
    home = client("one").home
    for host, status in (
        ("localhost:8470", 200),
        ("127.0.0.1", 200),
        ("[::1]:8470", 200),
        ("127.0.0.1.evil.example", 421),
    ):
        assert Client(home, f"http://{host}").get("/about").status_code == status, host


def test_a_page_in_hand_is_not_sent_again(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    first = ask.get("/", **{"accept-encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    assert int(first.headers["content-length"]) == len(gzip.compress(first.content, 6, mtime=0))
    again = ask.get("/", **{"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    plain = ask.get("/", **{"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content


def test_long_addresses_are_refused(client: Callable[[str], Client]) -> None:
    assert client("one").get("/records?q=" + "a" * 9000).status_code == 414


def test_news_reach_a_viewer_and_nothing_is_written(serve: Callable[[Path], str], tmp_path: Path) -> None:
    home = fixtures.one(tmp_path / "home")
    log_before = hashlib.sha256((home / "log.sqlite").read_bytes()).hexdigest()
    base = serve(home)
    late = Stream(base, last="1")
    assert late.response.getheader("content-type", "").startswith("text/event-stream")
    event = late.event()
    assert (event["event"], event["id"]) == ("view", "7")  # it had seen version 1: told at once
    stream = Stream(base, "/events?topics=view")
    both = Stream(base)
    bump(home, 8)
    for one in (stream, both, late):
        event = one.event()
        assert event["id"] == "8"
        assert json.loads(event["data"]) == {"topic": "view", "version": "8"}
    bump(home, 8, live='{"step": 1}')
    assert both.event()["event"] == "live"
    bump(home, 9)
    assert stream.event()["id"] == "9"  # it did not ask for live
    for one in (stream, both, late):
        one.close()
    parts = urlsplit(base)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    connection.request("GET", "/overview.json")
    assert json.load(connection.getresponse())["frame"]["version"] == 9
    connection.request("HEAD", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.close()
    assert hashlib.sha256((home / "log.sqlite").read_bytes()).hexdigest() == log_before


def test_views_that_appear_or_are_rebuilt_are_noticed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    hub = Hub(home)
    assert hub.read()["view"] == "0"
    hub.publish(hub.read())
    fixtures.one(home)
    assert hub.read()["view"] == "7"
    hub.publish(hub.read())
    for path in home.iterdir():
        path.unlink()
    fixtures.hostile(home)
    assert hub.read()["view"] == "1"
    hub.forget()


def test_a_slow_viewer_costs_two_words_and_viewers_are_bounded(tmp_path: Path) -> None:
    async def run() -> None:
        hub = Hub(tmp_path)
        hub.publish({"view": "0"})
        streams = [hub.stream(frozenset(("view", "live")), None) for _ in range(VIEWERS_MAX)]
        for stream in streams:
            assert await anext(stream) == b"retry: 3000\n\n"
        assert hub.full
        for version in range(1, 1000):
            hub.publish({"view": str(version), "live": str(version)})
        assert all(len(viewer.pending) == 2 for viewer in hub.viewers)
        assert b"id: 999\n" in await anext(streams[0])
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert not hub.viewers

    asyncio.run(run())


def test_a_silent_stream_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explorer.live.HEARTBEAT_S", 0.01)

    async def run() -> bytes:
        stream = Hub(tmp_path).stream(frozenset(("view",)), None)
        await anext(stream)
        beat = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return beat

    assert asyncio.run(run()).startswith(b": ")


def test_one_viewer_too_many_is_told_to_come_back(
    client: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("explorer.live.VIEWERS_MAX", 0)
    answer = client("one").get("/events")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"


def test_it_stops_at_once_with_a_viewer_connected(tmp_path: Path) -> None:
    home = fixtures.one(tmp_path / "home")
    command = [sys.executable, "-m", "explorer", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    stream = Stream(process.stdout.readline().split()[1].rstrip("/").replace("localhost", "127.0.0.1"))
    started = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - started < 3
    stream.close()
    process.stdout.close()


def test_a_taken_port_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve_main(["--home", str(tmp_path), "--port", str(port)]) == 7
    said = capsys.readouterr().err
    assert f"Port {port}" in said
    assert "--next-free" in said
    assert serve_main(["--home", str(tmp_path), "--bind", "nonsense"]) == 2


def test_the_next_free_port_is_taken_and_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "explorer",
            "--home",
            str(tmp_path),
            "--port",
            str(port),
            "--next-free",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()
    found = urlsplit(line.split()[1]).port
    assert found is not None
    assert found > port
