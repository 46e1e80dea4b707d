"""The specification on the pages: every chapter, safe whatever it says, in a checkout and in the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from explorer.markdown import render
from explorer.pages.spec import ROOT, chapters
from tests.pages.conftest import Client
from tests.pages.test_routes import check_html

HOSTILE = """# Title

## Same
## Same
## Main

<script>alert(1)</script> <img src=x onerror=alert(1)> [x](javascript:alert(1)) [y](https://evil.example/)
![tracker](https://evil.example/p.png) [z](../../etc/passwd) [ok](20-views.md#digest) [here](#same-1) [all](README.md)

| a | b |
|--:|---|
| 1 | <b>x</b> `|` |

```html
<script>alert(2)</script>
```
"""


def test_every_chapter_is_a_page_and_leads_on(client: Callable[[str], Client]) -> None:
    ask = client("one")
    files = {path.stem for path in (ROOT / "spec").glob("*.md")} - {"README"}
    assert set(chapters()) == files
    path, seen = "/spec/00-overview.json", []
    while path:
        value = ask.get(path).json()
        seen.append(value["chapter"]["name"])
        path = f"/spec/{value['next']['name']}.json" if value["next"] else ""
    assert seen == sorted(files)
    listed = ask.get("/spec").text
    for name in files:
        page = check_html(ask.get(f"/spec/{name}").text)
        assert f"/spec/{name}" in listed
        assert "|--" not in " ".join(page.words)  # tables are tables


def test_links_between_chapters_lead_somewhere(client: Callable[[str], Client]) -> None:
    ask = client("one")
    anchors = {name: set(check_html(ask.get(f"/spec/{name}").text).ids) for name in chapters()}
    for name in chapters():
        for tag, attrs in check_html(ask.get(f"/spec/{name}").text).tags:
            found = re.fullmatch(r"(?:/spec/([0-9a-z-]+))?(?:#(.+))?", attrs.get("href") or "")
            if tag == "a" and found and (found[1] or found[2]):
                assert found[1] is None or found[1] in anchors, (name, attrs)
                assert found[2] is None or found[2] in anchors[found[1] or name], (name, attrs)


def test_nothing_of_a_text_acts() -> None:
    shown = render(HOSTILE)
    page = check_html(f"<main>{shown.html}</main>")
    assert not any(tag in {"script", "img", "b"} for tag, _ in page.tags)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["/spec/20-views#digest", "#same-1", "/spec"]
    assert page.ids == ["title", "same", "same-1", "main-1"]
    assert [heading.anchor for heading in shown.headings] == ["same", "same-1", "main-1"]
    words = " ".join(page.words)
    assert "<script>alert(1)</script>" in words
    assert "<script>alert(2)</script>" in words
    assert "evil.example" not in str(shown.html).replace("[y](https://evil.example/)", "")


def test_the_licences_are_there_whole(client: Callable[[str], Client]) -> None:
    texts = {t["file"]: t["text"] for t in client("empty").get("/licences.json").json()["texts"]}
    assert texts == {name: (ROOT / name).read_text(encoding="utf-8") for name in ("LICENSE", "NOTICE")}
    assert 'href="/licences#license"' in client("empty").get("/about").text


@pytest.mark.slow
def test_the_wheel_holds_the_chapters(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"explorer/chapters/{name}.md" for name in chapters()} <= set(names)
    assert not any("vectors" in name or name.startswith("spec/") for name in names)
    assert {"spore_borg/store/schema.sql", "explorer/static/explorer.css"} <= set(names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
