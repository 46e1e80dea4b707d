from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from explorer.app import make_app
from explorer.throttle import Mirror
from spore_borg.store.library import Library
from spore_borg.store.tables import Tables


@pytest.fixture
def home(tmp_path) -> Path:
    """A node's directory with one document and no absorbed model."""
    Tables(tmp_path / "views.sqlite").publish({"meta": [{"key": "round", "value": "1"}]})
    with Library(tmp_path / "library.sqlite") as library:
        library.put("/notes/birds.txt", "The heron stands in the reeds. <script>alert(1)</script>")
    return tmp_path


async def _get(app, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8470") as client:
        return await client.get(path, headers=headers)


def _ask(home: Path, path: str, app=None, **headers: str) -> httpx.Response:
    import anyio

    async def one() -> httpx.Response:
        return await _get(app or make_app(home), path, **headers)

    return anyio.run(one)


def test_documents_answer_with_their_source(home):
    answer = _ask(home, "/chat?q=Where+is+the+heron%3F")
    assert answer.status_code == 200
    assert "birds.txt" in answer.text
    assert "<script>alert" not in answer.text
    assert "borg absorb" in answer.text  # no embedder yet, and it says so
    value = _ask(home, "/chat.json?q=heron").json()
    assert value["passages"][0]["found_by"] == {"words": 1}
    assert value["speakers"] == []


def test_without_a_question_nothing_is_started(home):
    answer = _ask(home, "/chat")
    assert answer.status_code == 200
    assert answer.text.count("<h1") == 1
    assert "Answer</h2>" not in answer.text


def test_nothing_found_says_what_to_do(home):
    answer = _ask(home, "/chat?q=zeppelin")
    assert answer.status_code == 200
    assert "borg absorb" in answer.text


def test_other_sites_and_other_machines_get_nothing(home):
    assert _ask(home, "/chat?q=heron", **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert _ask(home, "/chat?q=heron", make_app(home, loopback=False)).status_code == 404
    mirror = make_app(home, mirror=Mirror("http://localhost:8470", "localhost"))
    assert _ask(home, "/chat?q=heron", mirror).status_code == 404
    assert _ask(home, "/chat?q=" + "x" * 1_001).status_code == 400
