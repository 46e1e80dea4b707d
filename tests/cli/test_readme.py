"""The console blocks of the README and the docs: commands exist, and the harmless ones are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from .conftest import Borg
from .test_frame import LEAVES, TREE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
READS = {
    "--help",
    "version",
    "doctor",
    "status",
    "frontier",
    "log",
    "queue",
    "reputation",
}  # first word; no more
PLACEHOLDERS = {"TICKET", "CID", "DIR", "NODE", "ADDRESS"}


def lines() -> list[tuple[str, str]]:
    """``(page, command line)`` of every line that begins with ``$ `` in a console block."""
    return [
        (str(page.relative_to(ROOT)), line[2:])
        for page in PAGES
        for block in BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


LINES = lines()
BORG = [(page, line) for page, line in LINES if line.startswith("borg ")]
OTHER = [(page, line) for page, line in LINES if not line.startswith("borg ")]


def test_there_are_console_blocks() -> None:
    assert ("README.md", "make run") in OTHER and ("README.md", "make test") in OTHER
    assert len(BORG) >= 5


@pytest.mark.parametrize(("page", "line"), OTHER)
def test_other_lines_are_targets_of_the_makefile(page: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] != "make":
        pytest.skip("not a command of ours")
    assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("page", "line"), BORG)
def test_the_command_and_its_options_exist(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "--home":
        words = words[2:]
    if words[0].startswith("-"):
        return
    path = tuple(words[:2]) if tuple(words[:2]) in LEAVES else (words[0],)
    command = TREE[path]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.usefixtures("quick_torch")
@pytest.mark.parametrize(("page", "line"), BORG)
def test_harmless_lines_run(borg: Borg, home: Path, page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if words[0] not in READS or PLACEHOLDERS & set(words) or "--fetch" in words:
        return  # needs a node, a ticket or a record: the tests of that command run it
    result = borg("--home", home, *words)
    assert result.code in ({0, 1} if words[0] == "doctor" else {0}) and result.out
