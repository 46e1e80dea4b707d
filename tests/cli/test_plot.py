"""``borg plot``: the picture of the frontier, to a file or to stdout."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from .conftest import BETTER, Borg


def test_to_a_file(borg: Borg, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "frontier.svg"
    result = borg("--home", home, "plot", "-o", path)
    assert result.code == 0
    assert str(path) in result.out
    assert "best" in result.out
    assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_to_stdout_and_as_a_value(borg: Borg, home: Path) -> None:
    assert ElementTree.fromstring(borg("--home", home, "plot", "--x", "time").out).tag.endswith("svg")
    value = borg("--home", home, "plot", "--json").value
    assert value["page"] == "plot"
    assert value["best_cid"] == BETTER[0]


def test_as_png(borg: Borg, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "frontier.PNG"
    assert borg("--home", home, "plot", "-o", path).code == 0
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_only_svg_and_png(borg: Borg, home: Path, tmp_path: Path) -> None:
    result = borg("--home", home, "plot", "-o", tmp_path / "frontier.pdf")
    assert result.code == 2
    assert ".svg or .png" in result.err
    assert not list(tmp_path.glob("frontier*"))


def test_unknown_tasks_and_classes(borg: Borg, home: Path) -> None:
    assert borg("--home", home, "plot", "--task", "x").code == 4
    assert borg("--home", home, "plot", "--class", "x").code == 4
