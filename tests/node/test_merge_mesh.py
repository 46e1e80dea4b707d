"""Two real nodes absorb two noisy copies of one trained network and merge them: the average has half the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spore_borg.learn import suite_made
from tests.learn import models
from tests.node.nodes import NodeProcess, eventually
from tests.node.test_absorb_mesh import LIMIT_S, OPTIONS, borg, shard_rows

NOISE = 0.8  # of a tensor's standard deviation


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start nodes whose suite is small and that fetch nothing; ended at the end."""
    running: list[NodeProcess] = []

    def started(name: str, *options: object) -> NodeProcess:
        home = tmp_path / name
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text('suite = "small"\noffline = true\n')
        running.append(NodeProcess(home, *OPTIONS, *options))
        return running[-1]

    yield started
    for node in running:
        node.close()


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """The tiny classifier after some epochs on drawn digits that no suite has."""
    weights = torch.load(models.tiny_cnn(folder)["digits.pth"], weights_only=True)
    rows = suite_made.glyphs(1_500, seed=21).rows
    images = torch.stack(
        [torch.frombuffer(bytearray(row[1]), dtype=torch.uint8).view(1, 28, 28) for row in rows]
    )
    feeds, labels = (images.float() / 255 - 0.1307) / 0.3081, torch.tensor([row[2] for row in rows])
    order = torch.Generator().manual_seed(1)
    for tensor in weights.values():
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(list(weights.values()), 1e-3)

    def forward(x: torch.Tensor) -> torch.Tensor:
        for name in ("features.0", "features.3"):
            x = torch.nn.functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
            x = torch.nn.functional.max_pool2d(x.relu(), 2)
        x = torch.nn.functional.linear(
            x.flatten(1), weights["classifier.0.weight"], weights["classifier.0.bias"]
        )
        return torch.nn.functional.linear(
            x.relu(), weights["classifier.2.weight"], weights["classifier.2.bias"]
        )

    for _ in range(16):
        for batch in torch.randperm(len(feeds), generator=order).split(32):
            loss = torch.nn.functional.cross_entropy(forward(feeds[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: tensor.detach() for name, tensor in weights.items()}


@pytest.mark.slow
def test_a_mesh_of_two_merges_what_it_has_absorbed(
    start: Callable[..., NodeProcess], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, draw = trained(tmp_path / "base"), models.Draw(5)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        noisy = {
            key: value + NOISE * float(value.std()) * draw.normal(*value.shape)
            for key, value in weights.items()
        }
        torch.save(noisy, tmp_path / name / "digits.pth")
    first = start("1")
    second = start("2", "--join", first.wait("ticket")["ticket"])
    second.wait("joined")
    found: list[dict[str, Any]] = []
    for node, name in ((first, "one"), (second, "two")):
        _, value = borg(capsys, node.home, "absorb", str(tmp_path / name), "--licence-ok", "--wait")
        assert value["verdict"] == "confirmed", (value, second.last_words(), first.last_words())
        found.append(value)
    cids = [value["cid"] for value in found]
    code, merged = borg(capsys, second.home, "merge", *cids, "--wait")
    if not all(value["member"] for value in found):  # too few drawn pairs to show that both help
        assert code != 0 and "Not in the state" in str(merged), merged
        return
    assert merged["verdict"] == "confirmed", (merged, second.last_words(), first.last_words())
    assert code == (0 if merged["member"] else 1)

    def same() -> bool:
        pair = [[(r["cid"], r["member"], r["inputs"]) for r in shard_rows(n.home)] for n in (first, second)]
        return pair[0] == pair[1] and len(pair[0]) == 3

    assert eventually(same, LIMIT_S)
    members = {row["cid"] for row in shard_rows(first.home) if row["member"]}
    assert members == ({merged["cid"]} if merged["member"] else set(cids)), (
        "the experts stay, or the merge does"
    )
    code, again = borg(capsys, first.home, "merge", *reversed(cids))
    assert code != 0 and "Already merged" in str(again), again
    assert first.interrupt() == second.interrupt() == 0
