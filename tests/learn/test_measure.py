"""Measured losses: blocks alone are as blocks together, a trained model is worth more than chance, cheats show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spore_borg.learn import measure, suite
from spore_borg.learn.adapters import adapter
from spore_borg.learn.errors import SuiteError
from spore_borg.learn.graph import Model
from spore_borg.learn.measure import LOSSES, Member
from spore_borg.learn.run import MemoryWeights
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.convert import convert
from tests.learn.nets import net


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[suite.Suite]:
    with suite.open_suite(suite.build(tmp_path_factory.mktemp("suite"), small=True).path) as found:
        yield found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


def shard_of(model: Model, opened: suite.Suite, path: Path, steps: int = 6) -> Shard:
    feeds = [one for _, one in adapter(model.adapter, model.assets).feeds(opened.calibration("image"))]
    return convert(model, feeds, steps=steps, out=path)


@pytest.fixture(scope="module")
def trained(opened: suite.Suite, work: Path) -> tuple[Model, Shard]:
    model = net(1, range(10))
    return model, shard_of(model, opened, work / "trained.safetensors")


def slot_blocks(opened: suite.Suite) -> range:
    slot = opened.of_modality("image")[0].slot
    return range(16 * (1 + 2 * slot), 16 * (3 + 2 * slot))


def test_blocks_alone_are_as_blocks_together(
    opened: suite.Suite, trained: tuple[Model, Shard], tmp_path: Path
) -> None:
    model, shard = trained
    losses = measure.measure(model, shard, opened, [], cache_dir=tmp_path)
    assert len(losses) == LOSSES == 240
    assert all(type(loss) is int and loss >= 0 for loss in losses)
    mine = slot_blocks(opened)
    assert all(loss == 0 for i, loss in enumerate(losses) if i >= 16 and i not in mine)
    asked = [3, mine[5], mine[16 + 5], mine[0], 0, 200]
    assert measure.measure(model, shard, opened, [], blocks=asked) == [losses[block] for block in asked]
    assert measure.measure(model, shard, opened, [], blocks=asked, cache_dir=tmp_path) == [
        losses[block] for block in asked
    ]
    before, after = sum(losses[b] for b in mine[:16]), sum(losses[b] for b in mine[16:])
    assert after < 0.9 * before
    assert 0 < measure.metric(losses, 16) < 10_000_000  # cosine above .99 at T = 6
    assert measure.gains(losses, opened)[0]["after"] * 64 <= after


def test_members_count_once_by_their_id_and_modality(
    opened: suite.Suite, trained: tuple[Model, Shard]
) -> None:
    model, shard = trained
    mine = slot_blocks(opened)
    asked = [mine[2], mine[16 + 2]]
    after_alone = measure.measure(model, shard, opened, [], blocks=asked)[1]
    members: list[Member] = [("a", shard), ("t", _of_modality(shard, "text"))]
    before, after = measure.measure(model, shard, opened, members, blocks=asked)
    assert before == after_alone
    assert abs(after - before) <= 0.02 * before
    refined = measure.measure(model, shard, opened, members, blocks=asked, base=("a", shard))
    assert refined == [before, before]


def _of_modality(shard: Shard, modality: str) -> Shard:
    return replace(shard, info=replace(shard.info, modality=modality))


def test_a_damaged_shard_has_other_losses(
    opened: suite.Suite, trained: tuple[Model, Shard], work: Path
) -> None:
    model, shard = trained
    honest = measure.measure(model, shard, opened, [], blocks=range(16))
    weights = {name: model.weights.load(name).clone() for name in model.weights.names()}
    weights["w2"][3] *= 0.5
    other = shard_of(replace(model, weights=MemoryWeights(weights)), opened, work / "other.safetensors")
    assert sum(measure.measure(model, other, opened, [], blocks=range(16))) > 2 * sum(honest)
    coarse = shard_of(model, opened, work / "coarse.safetensors", steps=2)
    assert sum(measure.measure(model, coarse, opened, [], blocks=range(16))) > 2 * sum(honest)


def test_a_rotten_cache_is_made_again(
    opened: suite.Suite, trained: tuple[Model, Shard], tmp_path: Path
) -> None:
    model, shard = trained
    asked = [slot_blocks(opened)[16]]
    first = measure.measure(model, shard, opened, [], blocks=asked, cache_dir=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\x93NUMPY rotten")
    assert measure.measure(model, shard, opened, [], blocks=asked, cache_dir=tmp_path) == first
    assert all(np.load(path).dtype == np.int32 for path in tmp_path.iterdir())


def test_report_compares_end_to_end(opened: suite.Suite, trained: tuple[Model, Shard]) -> None:
    model, shard = trained
    found = measure.report(model, shard, opened)
    print(found)
    assert found["items"] == 16
    assert found["cosine"] > 0.99
    assert found["pearson"] > 0.98
    assert found["spearman"] > 0.9
    assert found["top1"] >= 14 / 16
    line = found["probes"][0]
    assert line["dense"] > 3 * line["chance"]
    assert abs(line["dense"] - line["spiking"]) < 0.1


def test_vectors_of_nothing_and_of_no_number() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert measure.infidelity(one, one) == 0
    assert measure.infidelity(one, -one) == 2_000_000_000
    assert measure.infidelity(zero, zero) == 0
    assert measure.infidelity(one, zero) == 1_000_000_000
    assert measure.infidelity(one, one * float("nan")) == 2_000_000_000


def test_what_cannot_be_measured_is_said(opened: suite.Suite, trained: tuple[Model, Shard]) -> None:
    model, shard = trained
    with pytest.raises(SuiteError, match="blocks 0 to 239"):
        measure.measure(model, shard, opened, [], blocks=[240])
    with pytest.raises(SuiteError, match="no probe for smiles"):
        measure.measure(model, _of_modality(shard, "smiles"), opened, [])
