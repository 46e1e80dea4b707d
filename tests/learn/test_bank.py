"""A bank grows by the gate: experts join, and what says nothing new (untrained, poisoned, a copy) does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spore_borg.learn import measure, suite
from spore_borg.learn.adapters import adapter
from spore_borg.learn.graph import Model
from spore_borg.learn.measure import Member
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.suite_data import Sizes
from spore_borg.learn.suite_made import glyphs
from spore_borg.views import gate
from tests.learn.nets import net


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[suite.Suite]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # A full-size probe of drawn digits and no other: sounds would take most of the time.
        patch.setattr(suite, "_sources", lambda sizes, **_: iter([glyphs(2 * Sizes().total() + 200)]))
        path = suite.build(tmp_path_factory.mktemp("suite")).path
    with suite.open_suite(path) as found:
        yield found
    torch.set_num_threads(threads)


def offers(seed: int) -> list[tuple[str, Model, bool]]:
    """(name, model, whether it should join)."""
    first = net(10 * seed + 1, range(5))
    return [
        ("untrained", net(10 * seed, None), False),
        ("expert 0-4", first, True),
        ("shuffled labels", net(10 * seed + 2, range(10), shuffled=True), False),
        ("expert 5-9", net(10 * seed + 3, range(5, 10)), True),
        ("the first again", first, False),
        ("untrained too", net(10 * seed + 4, None), False),
    ]


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_the_bank_takes_what_helps_and_nothing_else(seed: int, opened: suite.Suite, tmp_path: Path) -> None:
    members: list[Member] = []
    joined, errors = [], []
    offered = offers(seed)  # trains three networks
    for number, (name, model, _) in enumerate(offered):
        feeds = [one for _, one in adapter(model.adapter, model.assets).feeds(opened.calibration("image"))]
        shard = convert(model, feeds, steps=5, out=tmp_path / f"{number}.safetensors")
        losses = measure.measure(model, shard, opened, members, blocks=range(16, 48), cache_dir=tmp_path)
        said = gate.weigh(0, "digits", losses[:16], losses[16:]).word
        taken = said == "better"
        print(seed, name, said, f"{sum(losses[:16]) / 256e9:.4f} → {sum(losses[16:]) / 256e9:.4f}")
        if taken:
            members.append((name, shard))
            joined.append(name)
        errors.append(sum(losses[:16]))
    assert joined == [name for name, _, wanted in offered if wanted]
    assert all(after <= before for before, after in itertools.pairwise(errors)), errors
