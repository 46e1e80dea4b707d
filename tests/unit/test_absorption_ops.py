"""The worker's operations on a real tiny model: what is converted can be measured and converted again, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spore_borg.learn import measure as measuring
from spore_borg.learn import shard as shards
from spore_borg.learn.cost import CostError
from spore_borg.learn.digest import learn_digest
from spore_borg.learn.errors import LearnError
from spore_borg.learn.shard import Spec, open_shard
from spore_borg.node.tasks import suite_task_body, task_spec
from spore_borg.records.cid import RAW, Cid
from spore_borg.runner import absorb_ops, convert_ops, worker
from spore_borg.views import evidence, gate
from tests.learn import models

Job = dict[str, Any]


def quiet(_stage: str, _layer: int, _layers: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A tiny image classifier and the small suite."""
    folder = tmp_path_factory.mktemp("ops")
    suite = absorb_ops.suite({"out_dir": str(folder / "suite"), "small": True}, quiet)
    body = suite_task_body(suite["probes"], Cid.of(b"", RAW), bytes(32))
    assert (body.blocks, body.segments, body.spec["items_image"]) == (gate.BLOCKS, gate.SEGMENTS, 16)
    models.tiny_cnn(folder / "cnn")
    found = absorb_ops.source({"source": f"file:{folder / 'cnn'}", "out_dir": str(folder / "source")}, quiet)
    return {
        "task": task_spec(body), **found, "suite_path": suite["path"], "state": [], "rule": "few-spike/1", "steps": 4,
        "out_dir": str(folder / "shard"), "cache_dir": str(folder / "cache"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(job: Job) -> Job:
    found = convert_ops.absorb(job, quiet)
    job["ops"] = found["ops"]  # as the record declares it
    return found


def test_a_model_says_what_it_is_before_it_is_converted(job: Job) -> None:
    about = absorb_ops.inspect(job, quiet)
    assert (about["name"], about["head"], about["modality"]) == ("cnn", "classifier", "image")


def test_a_conversion_has_what_its_record_needs(job: Job, made: Job) -> None:
    assert len(made["losses"]) == gate.BLOCKS and len(made["digests"]) == gate.SEGMENTS + 1
    assert sum(made["losses"][:16]) > 0 and made["report"]["dense"] == 0 and 0 < made["report"]["active"] <= 1
    weighed = gate.weigh_probes(made["losses"], range(gate.BLOCKS))
    assert {item.probe for item in weighed} == {2}, "only the probe of images is measured"
    assert made["layers"] and made["params_count"] > 1_000


def test_blocks_alone_are_as_blocks_together(job: Job, made: Job) -> None:
    blocks = [3, 15, 80, 81, 96, 97, 200]
    found = convert_ops.measure({**job, "shard_path": made["shard_path"], "blocks": blocks}, quiet)
    assert found["losses"] == [[block, made["losses"][block]] for block in blocks]
    assert found["params"] == made["params"]


def test_every_group_converted_again_is_the_published_one(job: Job, made: Job) -> None:
    inner = set()
    for segment in (0, 3, 4, gate.SEGMENTS - 1):
        again = convert_ops.redo(
            {**job, "shard_path": made["shard_path"], "segment": segment, "inner_step": 2}, quiet
        )
        assert [again["start"], again["end"]] == made["digests"][segment : segment + 2]
        inner.add(again["inner"])
    assert len(inner) > 1


def test_groups_of_one_claim_are_redone_with_one_calibration(
    job: Job, made: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A verifier of a new author redoes all groups: to the same bytes, whether the thresholds are known or not."""
    from spore_borg.learn.spike import calibrate, convert

    calls, real = list[int](), calibrate.calibrate

    def counted(*given: Any) -> dict[str, calibrate.Threshold]:
        calls.append(1)
        return dict(real(*given))

    monkeypatch.setattr(convert, "calibrate", counted)

    def redone(segment: int, **change: object) -> tuple[str, ...]:
        asked = {**job, "shard_path": made["shard_path"], "segment": segment, "inner_step": 3, **change}
        answer = convert_ops.redo(asked, quiet)
        return answer["start"], answer["inner"], answer["end"]

    convert_ops._last.clear()
    known = [redone(segment) for segment in range(gate.SEGMENTS)]
    assert len(calls) == 1
    copy = tmp_path / "elsewhere.pth"
    copy.write_bytes(Path(dict(job["files"])["digits.pth"]).read_bytes())
    assert redone(0, files=[["digits.pth", str(copy)]]) == known[0] and len(calls) == 1, "by content"
    for segment in (0, gate.SEGMENTS - 1):
        convert_ops._last.clear()
        assert redone(segment) == known[segment]
    assert len(calls) == 3
    assert redone(0, steps=5) != known[0] and len(calls) == 4
    assert len(convert_ops._last) == 2, "only the last one is kept"


def test_trouble_with_this_machines_files_is_no_word_about_an_author(
    job: Job, made: Job, tmp_path: Path
) -> None:
    """Only what is unusable itself is evidence; ``data`` would accuse."""
    asked = {**job, "shard_path": made["shard_path"], "segment": 0, "inner_step": 1, "blocks": [0]}
    with pytest.raises(RuntimeError, match="This machine") as caught:
        convert_ops.OPS["redo"]({**asked, "suite_path": str(tmp_path / "gone")}, quiet)
    assert worker.describe(caught.value)["kind"] == "defect"
    broken = tmp_path / "broken"
    broken.write_bytes(Path(made["shard_path"]).read_bytes()[:-1])
    with pytest.raises(LearnError) as unusable:
        convert_ops.OPS["measure"]({**asked, "shard_path": str(broken)}, quiet)
    assert worker.describe(unusable.value)["kind"] == "data"


def test_a_refinement_is_measured_in_its_bases_place_and_can_be_redone(
    job: Job, made: Job, tmp_path: Path
) -> None:
    refining = {
        **job, "state": [["base", made["shard_path"]]], "base_path": made["shard_path"], "base_cid": "base",
        "out_dir": str(tmp_path / "refined"),
    }  # fmt: skip
    refined = convert_ops.absorb(refining, quiet)
    assert refined["params"] != made["params"]
    fidelity = gate.weigh_fidelity(made["losses"], refined["losses"], range(gate.BLOCKS))
    assert fidelity.word in ("better", "even"), fidelity
    assert refined["losses"][80:96] == made["losses"][96:112], "before a refinement stands its base"
    for segment in (0, gate.SEGMENTS - 1):
        asked = {**refining, "shard_path": refined["shard_path"], "segment": segment, "inner_step": 1}
        again = convert_ops.redo(asked, quiet)
        assert [again["start"], again["end"]] == refined["digests"][segment : segment + 2]


def test_the_declared_operations_are_counted_again(job: Job, made: Job) -> None:
    assert made["ops"] > 1_000
    asked = {**job, "shard_path": made["shard_path"], "blocks": [0]}
    for declared in (made["ops"] * 7 // 8 - 1, made["ops"] * 8 // 7 + 8):
        with pytest.raises(CostError, match="operations") as caught:
            convert_ops.measure({**asked, "ops": declared}, quiet)
        assert worker.describe(caught.value)["kind"] == "data", (
            "evidence against the claim, not this machine's fault"
        )
    for declared in (made["ops"] * 9 // 10, made["ops"] * 11 // 10):  # a shape may follow from a float
        assert convert_ops.measure({**asked, "ops": declared}, quiet)["losses"] == [[0, made["losses"][0]]]


def test_a_model_above_the_meshs_limit_is_told_before_it_is_converted(job: Job, made: Job) -> None:
    seen: list[str] = []

    def told(stage: str, _layer: int, _layers: int) -> None:
        seen.append(stage)

    with pytest.raises(CostError, match=f"too slow for this mesh: it needs more than {made['ops'] - 1} op"):
        convert_ops.absorb({**job, "ops_max": made["ops"] - 1}, told)
    assert seen == ["counts operations of"]


def test_a_block_that_needs_far_more_than_declared_has_a_loss_that_no_claim_has(
    job: Job, made: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only some items cost so much: jurors who recompute the block find the same."""
    monkeypatch.setattr(measuring, "check_ops", lambda *_: None)
    least = made["ops"] // 100
    asked = {**job, "shard_path": made["shard_path"], "blocks": [0, 80, 96], "ops": least, "cache_dir": None}
    found = dict(convert_ops.measure(asked, quiet)["losses"])
    assert found == {0: measuring.OVERRUN, 80: made["losses"][80], 96: measuring.OVERRUN}
    with pytest.raises(CostError, match="nobody can say"):
        convert_ops._check_even(found)
    convert_ops._last.clear()
    with pytest.raises(CostError):
        convert_ops.redo({**asked, "segment": 7, "inner_step": 1, "ops": 1}, quiet)


def test_the_groups_that_hold_something_follow_from_the_digests(job: Job, made: Job) -> None:
    shard = open_shard(Path(made["shard_path"]))
    full = tuple(number for number in range(gate.SEGMENTS) if shard.group_tensors(number))
    digests = [bytes.fromhex(digest) for digest in made["digests"]]
    assert evidence.filled(digests, bytes.fromhex(made["tail"])) == full
    assert 0 < len(full) < gate.SEGMENTS, "a small model leaves groups empty"


def test_an_altered_graph_shows_in_every_replay(job: Job, made: Job, tmp_path: Path) -> None:
    """The shard's metadata begin the chain, and each replay begins it from the source's own."""
    shard = open_shard(Path(made["shard_path"]))
    forged = {**shard.metadata, "adapter": json.dumps({**shard.adapter, "labels": ["another"] * 10})}
    path = tmp_path / "forged"
    shards.write(
        path, forged, {name: Spec(one.dtype, one.shape) for name, one in shard.specs.items()}, shard.tensor
    )
    digests = open_shard(path).digests()
    for segment in (0, 3, gate.SEGMENTS - 1):
        asked = {**job, "shard_path": str(path), "segment": segment, "inner_step": 1}
        again = convert_ops.redo(asked, quiet)
        assert again["start"] != digests[segment].hex()


def test_another_source_gives_another_group(job: Job, made: Job, tmp_path: Path) -> None:
    weights = torch.load(dict(job["files"])["digits.pth"], weights_only=True)
    last = sorted(name for name in weights if name.startswith("classifier"))[-1]
    weights[last] = weights[last] * 1.01
    torch.save(weights, tmp_path / "digits.pth")
    asked = {**job, "files": [["digits.pth", str(tmp_path / "digits.pth")]], "shard_path": made["shard_path"]}
    last_group = gate.SEGMENTS - 1
    again = convert_ops.redo({**asked, "segment": last_group, "inner_step": 1}, quiet)
    assert again["end"] != made["digests"][-1]


def test_requests_that_cannot_be_served_say_why(job: Job, made: Job, tmp_path: Path) -> None:
    with pytest.raises(absorb_ops.OpError, match="blocks"):
        convert_ops.measure({**job, "shard_path": made["shard_path"], "blocks": [240]}, quiet)
    with pytest.raises(absorb_ops.OpError, match="files"):
        absorb_ops.inspect({**job, "files": [["a"]]}, quiet)
    with pytest.raises(LearnError):
        absorb_ops.source({"source": f"file:{tmp_path / 'none'}", "out_dir": str(tmp_path)}, quiet)
    broken = tmp_path / "broken"
    broken.write_bytes(Path(made["shard_path"]).read_bytes()[:-1])
    with pytest.raises(LearnError):
        convert_ops.measure({**job, "shard_path": str(broken), "blocks": [0]}, quiet)


def test_the_digest_of_the_code_that_measures_is_stable_and_leaves_fetching_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from spore_borg.learn import digest

    assert learn_digest() == learn_digest() and len(learn_digest()) == 32
    before = learn_digest()
    monkeypatch.setattr(digest, "APART", frozenset({*digest.APART, "measure.py"}))
    assert learn_digest() != before
    names = {name for name, _ in digest._sources(digest.resources.files("spore_borg.learn"), "")}
    assert {"measure.py", "spike/convert.py", "shard.py"} <= names | {"measure.py"}
    assert not any(name.startswith("sources/") for name in names)
