"""The frontier plot alone: well-formed XML of presentation attributes only, and how a chat finds it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.pages.conftest import Client
from tests.pages.fixtures import HOSTILE

ALONE = {"script", "style", "a", "image", "use", "foreignObject", "animate", "set"}


@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh"])
@pytest.mark.parametrize("axis", ["experiment", "time", "cost"])
def test_the_picture_needs_nothing_else(state: str, axis: str, client: Callable[[str], Client]) -> None:
    answer = client(state).get(f"/plot.svg?x={axis}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("image/svg+xml")
    for element in ElementTree.fromstring(answer.text).iter():
        assert element.tag.removeprefix("{http://www.w3.org/2000/svg}") not in ALONE
        assert not {"style", "class", "href"} & set(element.attrib)
        assert not any(name.startswith("on") or "url(" in value for name, value in element.attrib.items())


def test_it_draws_what_the_overview_draws(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    value = ask.get("/plot.json").json()
    overview = ask.get("/overview.json").json()
    assert value["plot"] == overview["plot"]
    assert value["best_cid"] == overview["best_cid"]
    picture = ElementTree.fromstring(ask.get("/plot.svg").text)
    filled = [e for e in picture.iter("{http://www.w3.org/2000/svg}circle") if e.get("fill") == "#00664b"]
    assert len(filled) == len(value["plot"]["steps"])


def test_hostile_words_are_words_in_it(client: Callable[[str], Client]) -> None:
    text = client("hostile").get("/plot.svg").text
    words = " ".join(ElementTree.fromstring(text).itertext())
    assert HOSTILE[0] in words
    assert "\u202e" not in text


def test_a_chat_is_told_where_the_picture_is(client: Callable[[str], Client]) -> None:
    ask = client("mesh")
    best = ask.get("/overview.json").json()["best_cid"]
    for path in ("/", f"/record/{best}"):
        found = dict(re.findall(r'<meta property="og:([a-z:_]+)" content="([^"]*)">', ask.get(path).text))
        assert found["image"].startswith("http://127.0.0.1:8470/plot.png?")
        assert (
            ask.get(found["image"].removeprefix("http://127.0.0.1:8470").replace("&amp;", "&")).status_code
            == 200
        )
        assert "2." in found["title"]
        assert found["description"]


@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh"])
def test_as_png_it_has_the_size_of_a_preview(state: str, client: Callable[[str], Client]) -> None:
    answer = client(state).get("/plot.png")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    raw = answer.content
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")) == (1_200, 630)
    assert len(raw) < 300_000


def test_png_shows_the_colours_of_the_plot(client: Callable[[str], Client]) -> None:
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(client("mesh").get("/plot.png").content)).convert("RGB")
    seen = {colour for _, colour in image.getcolors(1 << 24) or ()}
    assert (0xFB, 0xFA, 0xF7) in seen  # the paper
    assert (0x00, 0x66, 0x4B) in seen  # the frontier
    assert (0x1C, 0x1D, 0x19) in seen  # the words: there is a font


def test_without_a_font_it_says_what_to_do(
    client: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from explorer import png

    monkeypatch.setattr(png, "_fonts", lambda: False)
    answer = client("one").get("/plot.png", accept="application/json")
    assert answer.status_code == 503
    assert "font" in answer.json()["detail"]


def test_a_strange_host_is_not_repeated(client: Callable[[str], Client]) -> None:
    from starlette.requests import Request

    from explorer.app import origin_of

    for host in ('x"><script>', "a/b", "a b", "[x]", "é", ""):
        scope = {"type": "http", "scheme": "http", "headers": [(b"host", host.encode("latin-1"))]}
        assert origin_of(Request(scope)) == ""
    elsewhere = replace(client("one"), base="http://localhost:9999")
    assert 'content="http://localhost:9999/"' in elsewhere.get("/").text
