"""A public mirror: limits for every client, its own name and address, and nothing of the machine that it runs on."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx
import pytest

from explorer import throttle
from explorer.__main__ import main as serve_main
from explorer.app import make_app
from explorer.live import Hub
from explorer.throttle import Mirror, Throttle, client_of, networks, public_url
from spore_borg.errors import UsageError
from tests.pages.fixtures import TICKET
from tests.pages.test_routes import ROUTES, check_html, twin

URL = "https://mesh.example"
Homes = Callable[[str], Path]


@dataclass(frozen=True)
class Asker:
    """Asks one mirror in this process, as from an address."""

    app: object
    peer: str = "203.0.113.7"

    def get(self, *paths: str, host: str = "mesh.example", **headers: str) -> list[httpx.Response]:
        """Requests one after the other."""

        async def ask() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app, client=(self.peer, 4711))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                return [await client.get(path, headers=headers) for path in paths]

        return anyio.run(ask)


@pytest.fixture
def mirror(homes: Homes) -> Asker:
    app = make_app(homes("mesh"), mirror=Mirror(URL, "mesh.example", networks(["10.0.0.0/8"])))
    app.throttle.rate_per_s = 0.01  # nothing comes back while a busy machine runs the test
    return Asker(app)


def test_who_asks_too_often_is_told_when_to_come_back(mirror: Asker) -> None:
    answers = mirror.get(*["/frontier.json"] * 80)
    codes = [answer.status_code for answer in answers]
    assert codes[:60] == [200] * 60
    assert codes[60:] == [429] * 20
    last = answers[-1]
    assert last.headers["content-type"] == "application/problem+json"
    assert last.json()["status"] == 429
    assert int(last.headers["retry-after"]) >= 1
    assert last.headers["cache-control"] == "no-store"
    page = mirror.get("/", accept="text/html")[0]
    assert page.status_code == 429
    check_html(page.text)
    assert Asker(mirror.app, "203.0.113.8").get("/")[0].status_code == 200  # another client is not


def test_a_whole_table_costs_more(mirror: Asker) -> None:
    codes = [answer.status_code for answer in mirror.get(*["/tasks.csv"] * 5)]
    assert codes == [200, 200, 200, 429, 429]


def test_only_a_trusted_proxy_is_believed(mirror: Asker) -> None:
    path = "/tasks.csv"
    for number in range(6):  # a stranger that writes the header itself is one client
        code = mirror.get(path, **{"x-forwarded-for": f"198.51.100.{number}"})[0].status_code
        assert code == (200 if number < 3 else 429)
    proxy = Asker(mirror.app, "10.1.2.3")
    for number in range(6):
        said = {"x-forwarded-for": f"6.6.6.6, 198.51.100.{number}, 10.9.9.9"}
        assert proxy.get(path, **said)[0].status_code == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "want"),
    [
        ("203.0.113.7", "1.2.3.4", "203.0.113.7"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", "1.2.3.4, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.0.0.1", "[2001:db8:1:2:3::4]:443", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "", "2001:db8:1:2::/64"),
        ("::ffff:1.2.3.4", "", "1.2.3.4"),
        (None, "1.2.3.4", "unknown"),
        ("10.0.0.1", ",".join(["10.0.0.2"] * 1000), "10.0.0.2"),
    ],
)
def test_who_asks(peer: str | None, forwarded: str, want: str) -> None:
    assert client_of(peer, forwarded, networks(["10.0.0.0/8"])) == want


def test_memory_for_clients_is_bounded() -> None:
    limits = Throttle(clients_max=100)
    for number in range(5_000):
        assert limits.wait_s(str(number), 1, number / 1e3) == 0
    assert len(limits.buckets) == 100


def test_tokens_come_back_at_their_rate() -> None:
    limits = Throttle(rate_per_s=2, burst=4)
    assert [limits.wait_s("a", 1, 0.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert limits.wait_s("a", 1, 0.5) == 0
    assert limits.wait_s("a", 1, 0.5) == 0.5
    assert limits.wait_s("a", 4, 100) == 0
    assert limits.wait_s("a", 1, 99) > 0  # a clock that goes back gives nothing


def test_it_answers_to_its_names_only(mirror: Asker) -> None:
    for host, code in (
        ("mesh.example", 200),
        ("MESH.example:443", 200),
        ("127.0.0.1", 200),
        ("evil.example", 421),
    ):
        answer = mirror.get("/about", host=host)[0]
        assert answer.status_code == code, host
    assert URL in answer.text


def test_addresses_for_others_are_whole(mirror: Asker) -> None:
    text = mirror.get("/?x=cost", host="127.0.0.1")[0].text
    assert f'<link rel="canonical" href="{URL}/?x=cost">' in text
    assert f'<meta property="og:url" content="{URL}/">' in text
    assert re.search(rf'<meta property="og:image" content="{URL}/plot\.', text)
    assert "127.0.0.1" not in text
    evil = mirror.get('/?task="><script>alert(1)</script>')[0]
    assert "<script>alert" not in evil.text


def test_nothing_local_is_shown(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker(make_app(homes("mesh"), mirror=Mirror(URL, "mesh.example")))
    asker.app.throttle.burst = 1e9  # type: ignore[attr-defined]
    for path in ROUTES:
        page, data = asker.get(path, twin(path))
        for text in (page.text, data.text):
            for local in (TICKET, "127.0.0.1:", "4711", str(homes("mesh"))):
                assert local not in text, (path, local)
    value = asker.get("/mesh.json")[0].json()
    assert value["peers"] == []
    assert value["nodes"]
    assert asker.get("/about.json")[0].json()["node"] == {}
    assert asker.get("/overview.json")[0].json()["running"]["step"] == 412


def test_news_are_of_public_things_only(homes: Homes) -> None:
    hidden, whole = Hub(homes("mesh"), public=True), Hub(homes("mesh"))
    try:
        assert hidden.read()["live"] != whole.read()["live"]
    finally:
        hidden.forget()
        whole.forget()


def test_what_a_proxy_may_keep(mirror: Asker) -> None:
    want = {
        "/": "public, no-cache",
        "/frontier.json": "public, no-cache",
        "/plot.svg": "public, max-age=60",
        "/tasks.csv": "public, max-age=60",
        "/nothing": "no-store",
        "/static/explorer.css": "public, max-age=3600",
    }
    for path, cache in want.items():
        answer = mirror.get(path)[0]
        assert answer.headers["cache-control"] == cache, path
        if "no-cache" in cache:
            assert mirror.get(path, **{"if-none-match": answer.headers["etag"]})[0].status_code == 304


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("https://mesh.example", (URL, "mesh.example")),
        ("https://Mesh.Example:8443/", ("https://mesh.example:8443", "mesh.example")),
        ("http://[2001:db8::1]", ("http://[2001:db8::1]", "2001:db8::1")),
    ],
)
def test_public_addresses(given: str, want: tuple[str, str]) -> None:
    assert public_url(given) == want


@pytest.mark.parametrize(
    "given",
    ["mesh.example", "ftp://x", "https://", "https://a/b", "https://a?x", "https://u:p@a", "https://a b", 'https://a"',
     "https://a:x"],
)  # fmt: skip
def test_what_is_no_public_address(given: str) -> None:
    with pytest.raises(UsageError, match="https://mesh"):
        public_url(given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--read-only"], "--public-url"),
        (["--public-url", URL], "--read-only"),
        (["--read-only", "--public-url", "mesh.example"], "no address of a site"),
        (["--read-only", "--public-url", URL, "--trusted-proxy", "proxy"], "10.0.0.0/8"),
        (["--bind", "0.0.0.0:x"], "not an address"),
        (["--bind", "example.com:80"], "not an address"),
    ],
)
def test_options_that_cannot_be(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve_main(["--home", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def live(homes: Homes) -> Iterator[int]:
    """A mirror as its own process; gives its port."""
    command = [sys.executable, "-m", "explorer", "--home", str(homes("one")), "--bind", "127.0.0.1:0", "--read-only",
               "--public-url", URL, "--trusted-proxy", "127.0.0.1", "--json"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert said["public_url"] == URL
    yield int(said["url"].rsplit(":", 1)[1].strip("/"))
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


def test_streams_of_one_client_are_limited(live: int) -> None:
    open_: list[http.client.HTTPConnection] = []

    def stream(client: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", live, timeout=10)
        open_.append(connection)
        connection.request("GET", "/events", headers={"X-Forwarded-For": client, "Host": "mesh.example"})
        response = connection.getresponse()
        if response.status == 200:
            assert response.readline() == b"retry: 3000\n"
        return response

    try:
        kept = [stream("198.51.100.1") for _ in range(throttle.STREAMS_PER_CLIENT)]
        assert {answer.status for answer in kept} == {200}
        refused = stream("198.51.100.1")
        assert refused.status == 429
        assert refused.getheader("retry-after") == "30"
        assert refused.getheader("content-type") == "application/problem+json"
        assert stream("198.51.100.2").status == 200
    finally:
        for connection in open_:
            connection.close()


def test_many_who_ask_at_once_cost_one_page(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    from explorer import pages

    built: list[str] = []
    real = pages.frontier

    def slow(*args: object, **given: object) -> object:
        built.append("frontier")
        time.sleep(0.2)
        return real(*args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(pages, "frontier", slow)
    app = make_app(homes("one"))
    app.explorer.hub.versions.update(view="7", live="x")

    async def ask() -> list[int]:
        codes: list[int] = []

        async def one(client: httpx.AsyncClient) -> None:
            codes.append((await client.get("/frontier.json")).status_code)

        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
            anyio.create_task_group() as group,
        ):
            for _ in range(20):
                group.start_soon(one, client)
        return codes

    assert anyio.run(ask) == [200] * 20
    assert built == ["frontier"]
    assert not app.explorer._building
