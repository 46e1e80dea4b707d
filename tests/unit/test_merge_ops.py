"""Merging tiny networks that were trained from one initialisation: the worker's operations, bit for bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from spore_borg.learn.adapters import adapter
from spore_borg.learn.errors import LearnError
from spore_borg.learn.lineage import merged_model
from spore_borg.learn.measure import sides
from spore_borg.learn.shard import open_shard
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.suite import open_suite
from spore_borg.node.tasks import suite_task_body, task_spec
from spore_borg.records.cid import RAW, Cid
from spore_borg.runner import absorb_ops, convert_ops
from spore_borg.views import gate
from tests.learn import models

Job = dict[str, Any]
INCOMES = (300, 8192, 70)


def quiet(_stage: str, _layer: int, _layers: int) -> None:
    """Nobody listens."""


def tuned(folder: Path, seed: int, norm: bool = False) -> Path:
    """A classifier of one initialisation, its weights moved a little."""
    path = models.tiny_cnn(folder, norm=norm)["digits.pth"]
    weights = torch.load(path, weights_only=True)
    draw = models.Draw(100 + seed)
    for name in sorted(weights):
        if seed and weights[name].is_floating_point() and not name.endswith("running_var"):
            weights[name] += draw.normal(*weights[name].shape, scale=0.02)
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of one initialisation, and last the initialisation itself."""
    folder = tmp_path_factory.mktemp("lineage")
    return [tuned(folder / str(seed), seed) for seed in (1, 2, 3, 0)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, parts: list[Path]) -> Job:
    """Merge two of them, against a state that holds both."""
    folder = tmp_path_factory.mktemp("ops")
    suite = absorb_ops.suite({"out_dir": str(folder / "suite"), "small": True}, quiet)
    body = suite_task_body(suite["probes"], Cid.of(b"", RAW), bytes(32))
    common = {
        "task": task_spec(body), "suite_path": suite["path"], "rule": "few-spike/1", "steps": 3, "origin": "merge",
        "licence": "CC0-1.0", "name": "merged", "cache_dir": str(folder / "cache"),
    }  # fmt: skip
    state = []
    for number in range(2):
        files = [["digits.pth", str(parts[number])]]
        out = str(folder / f"shard{number}")
        made = convert_ops.absorb({**common, "files": files, "state": [], "out_dir": out}, quiet)
        state.append([f"member{number}", made["shard_path"]])
    return {
        **common, "files": [[f"{n:02d}/digits.pth", str(parts[n])] for n in range(2)], "state": state,
        "merge": {"rule": "trimmed/1", "incomes": list(INCOMES[:2])}, "replaced": ["member0", "member1"],
        "scratch_dir": str(folder / "scratch"), "out_dir": str(folder / "merged"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(job: Job) -> Job:
    found = convert_ops.absorb(job, quiet)
    job["ops"] = found["ops"]  # as the record declares it
    return found


def test_a_merge_is_converted_and_measured_in_its_inputs_place(job: Job, made: Job) -> None:
    assert (made["head"], made["modality"], made["name"]) == ("classifier", "image", "merged")
    alone = convert_ops.measure(
        {**job, "state": [], "shard_path": made["shard_path"], "blocks": list(range(96, 112))}, quiet
    )
    after = [loss for _, loss in alone["losses"]]
    assert made["losses"][96:112] == after, "after the merge its inputs are gone"
    members = [(name, open_shard(Path(path))) for name, path in job["state"]]
    before, later = sides(open_shard(Path(made["shard_path"])), members, None, job["replaced"])
    assert (len(before), len(later)) == (2, 1), "before it they are there"
    blocks = [3, 80, 97]
    found = convert_ops.measure({**job, "shard_path": made["shard_path"], "blocks": blocks}, quiet)
    assert found["losses"] == [[block, made["losses"][block]] for block in blocks]


def test_the_weights_are_the_weighted_mean_to_the_last_bit(parts: list[Path], tmp_path: Path) -> None:
    inputs = [models.imported({"digits.pth": path}) for path in parts[:3]]
    merged = merged_model(inputs, INCOMES, "mean/1", tmp_path)
    assert set(tmp_path.iterdir()) == {tmp_path / "merged.safetensors"}, "the inputs' own tensors are gone"
    for name in merged.graph.weight_names():
        loaded = [model.weights.load(name).double().mul(2**24).round() for model in inputs]
        exact = sum(weight * tensor for weight, tensor in zip(INCOMES, loaded, strict=True))
        assert isinstance(exact, torch.Tensor)
        expected = exact.div(sum(INCOMES)).floor().div(2**24).to(torch.float32)
        assert torch.equal(merged.weights.load(name), expected), name


@pytest.mark.parametrize("rule", ["mean/1", "trimmed/1"])
@pytest.mark.parametrize("based", [False, True])
def test_the_weights_are_the_same_bytes_in_any_order_of_inputs(
    parts: list[Path], job: Job, tmp_path: Path, rule: str, based: bool
) -> None:
    found = {
        shuffled(parts, job, tmp_path, order, rule, based)[1] for order in itertools.permutations(range(3))
    }
    assert len(found) == 1


def shuffled(
    parts: list[Path],
    job: Job,
    folder: Path,
    order: tuple[int, ...],
    rule: str = "trimmed/1",
    based: bool = False,
) -> tuple[Job, bytes]:
    """A merge of three models in some order, and the bytes of the merged tensors."""
    asked = {
        **job, "files": [[f"{place:02d}/digits.pth", str(parts[n])] for place, n in enumerate(order)],
        "merge": {"rule": rule, "incomes": [INCOMES[n] for n in order], "base": based},
        "scratch_dir": str(folder / "".join(map(str, order))), "out_dir": str(folder / f"out{order}"),
    }  # fmt: skip
    asked["files"] += [["base/digits.pth", str(parts[3])]] if based else []
    absorb_ops.model_of(asked)
    return asked, (Path(asked["scratch_dir"]) / "merged.safetensors").read_bytes()


def test_the_shard_has_the_same_digests_in_any_order_of_inputs(
    parts: list[Path], job: Job, tmp_path: Path
) -> None:
    one, _ = shuffled(parts, job, tmp_path, (0, 1, 2), based=True)
    other, _ = shuffled(parts, job, tmp_path, (2, 0, 1), based=True)
    found = set()
    with open_suite(Path(job["suite_path"])) as suite:
        items = suite.calibration("image")
    for asked in (one, other):
        model = absorb_ops.model_of(asked)
        feeds = [feeds for _, feeds in adapter(model.adapter, model.assets).feeds(items)]
        out = tmp_path / "shard.safetensors"
        shard = convert(model, feeds, rule="few-spike/1", steps=3, segments=8, out=out)
        found.add((shard.params_digest(), tuple(shard.digests()), out.read_bytes()))
    assert len(found) == 1


def test_every_group_redone_from_the_inputs_is_the_published_one(job: Job, made: Job, tmp_path: Path) -> None:
    fresh = {**job, "scratch_dir": str(tmp_path / "elsewhere"), "shard_path": made["shard_path"]}
    for segment in (0, 3, gate.SEGMENTS - 1):
        again = convert_ops.redo({**fresh, "segment": segment, "inner_step": 2}, quiet)
        assert [again["start"], again["end"]] == made["digests"][segment : segment + 2]


@pytest.mark.parametrize("lie", ["coordinate", "income"])
def test_another_coordinate_or_weight_gives_another_group(
    job: Job, made: Job, parts: list[Path], tmp_path: Path, lie: str
) -> None:
    asked = {**job, "scratch_dir": str(tmp_path / "s"), "shard_path": made["shard_path"]}
    if lie == "coordinate":
        weights = torch.load(parts[1], weights_only=True)
        last = sorted(name for name in weights if name.startswith("classifier"))[-1]
        weights[last].view(-1)[0] += 0.5
        torch.save(weights, tmp_path / "digits.pth")
        asked["files"] = [job["files"][0], ["01/digits.pth", str(tmp_path / "digits.pth")]]
    else:
        asked["merge"] = {"rule": "mean/1", "incomes": [8192, 8192]}
    again = convert_ops.redo({**asked, "segment": gate.SEGMENTS - 1, "inner_step": 1}, quiet)
    assert again["end"] != made["digests"][-1]


def test_what_is_no_lineage_is_refused_with_the_reason(job: Job, parts: list[Path], tmp_path: Path) -> None:
    other = tuned(tmp_path / "norm", 1, norm=True)
    asked = {
        **job,
        "files": [job["files"][0], ["01/digits.pth", str(other)]],
        "scratch_dir": str(tmp_path / "a"),
    }
    with pytest.raises(LearnError, match="no lineage"):
        absorb_ops.model_of(asked)
    same = {
        **job,
        "files": [job["files"][0], ["01/digits.pth", str(parts[0])]],
        "scratch_dir": str(tmp_path / "b"),
    }
    with pytest.raises(LearnError, match="the same weights"):
        absorb_ops.model_of(same)
    huge = torch.load(parts[1], weights_only=True)
    name = sorted(huge)[0]
    huge[name][0] = 1e3
    torch.save(huge, tmp_path / "huge.pth")
    asked["files"][1] = ["01/digits.pth", str(tmp_path / "huge.pth")]
    with pytest.raises(LearnError, match="not below 128"):
        absorb_ops.model_of(asked)
    assert not list((tmp_path / "a").iterdir()), "nothing half-made stays"


def test_constants_that_all_share_stay_as_they_are(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        path = tuned(tmp_path / str(seed), seed, norm=True)
        found.append(models.imported({"digits.pth": path}))
    names = [name for name in found[0].graph.weight_names() if name.endswith("running_var")]
    merged = merged_model(found, (1, 2), "trimmed/1", tmp_path / "scratch")
    for name in names:
        assert torch.equal(merged.weights.load(name), found[0].weights.load(name))
    assert merged.weights.names() == found[0].weights.names()
