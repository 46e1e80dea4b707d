"""Two real nodes refine a model that they absorbed: the refinement takes its base's place on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.learn import models
from tests.node.nodes import NodeProcess, eventually
from tests.node.test_absorb_mesh import LIMIT_S, borg, shard_rows
from tests.node.test_merge_mesh import trained

SETTINGS = 'suite = "full"\noffline = true\nrefine_every_s = 5\n'
OPTIONS = ("--no-explorer", "--listen", "127.0.0.1:0", "--epoch-ms", "2000", "--task", "pico")


@contextmanager
def researching(home: Path, *options: str) -> Iterator[NodeProcess]:
    """A node that fetches nothing and proposes refinements; ended at the end."""
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(SETTINGS)
    node = NodeProcess(home, *OPTIONS, *options)
    try:
        yield node
    finally:
        node.close()


@pytest.mark.slow
def test_a_refinement_that_a_mesh_of_two_proposes_becomes_a_member_on_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print("seed 5")
    models.tiny_cnn(tmp_path / "digits")
    (path,) = [one for one in (tmp_path / "digits").rglob("*") if one.suffix in (".pt", ".pth")]
    trained(path, 0, 9, seed=5, epochs=4)
    with ExitStack() as stack:
        first = stack.enter_context(researching(tmp_path / "1"))
        ticket = first.wait("ticket")["ticket"]
        second = stack.enter_context(researching(tmp_path / "2", "--join", ticket))
        second.wait("joined")
        code, base = borg(
            capsys, first.home, "absorb", str(tmp_path / "digits"), "--steps", "3", "--licence-ok", "--wait"
        )
        assert code == 0 and base["member"], (base, first.last_words())

        def refined(node: NodeProcess) -> list[dict[str, Any]]:
            return [row for row in shard_rows(node.home) if row["base"] and row["member"]]

        assert eventually(lambda: all(refined(node) for node in (first, second)), 2 * LIMIT_S), (
            shard_rows(first.home),
            first.last_words(),
        )
        for node in (first, second):
            rows = {row["cid"]: row for row in shard_rows(node.home)}
            (better,) = refined(node)
            before = rows[better["base"]]
            assert before["member"] == 0, "its refinement has taken its place"
            assert better["metric"] < before["metric"]
            assert "better in fidelity" in better["standing"]
