"""Lattice experiments: what is verified is exact, from both sides of the pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import safetensors
import trio

from spore_borg.records.merkle import LOSS_MAX, state_digest
from spore_borg.runner import fingerprint
from spore_borg.runner.client import Worker
from spore_borg.runner.errors import WorkerRefused
from workspace import digest, harness, lattice, lattice_data, lattice_harness, lattice_recipe, tasks
from workspace.lattice import DataError, Published

ROOT = Path(fingerprint.__file__).parents[2]


class World:
    """The shipped text, and two runs: the second reads other slices and joins the first."""

    def __init__(self, room: Path) -> None:
        self.room, self.data = room, room / "text.safetensors"
        self.built = lattice_data.build(self.data)
        self.task: dict[str, Any] = self.built["task"]
        self.first = self.train("first", slice=3)
        self.second = self.train("second", self.first, slice=40, slices=2, exclusion=200)

    def train(self, name: str, *bases: dict[str, Any], **changes: Any) -> dict[str, Any]:
        recipe = {**lattice_recipe.BASELINE, **changes, "bases": ",".join(base["params"] for base in bases)}
        paths = [Path(base["weights_path"]) for base in bases]
        done = lattice_harness.train(self.task, recipe, self.data, self.room / name, base_paths=paths)
        return {**done, "recipe": recipe, "base_paths": paths, "size": self.task["slice_characters"]}

    def evaluate(
        self, run: dict[str, Any], raw: bytes | None = None, blocks: Any = range(64)
    ) -> dict[str, Any]:
        path = Path(run["weights_path"])
        if raw is not None:
            path = self.room / "altered.safetensors"
            path.write_bytes(raw)
        return lattice_harness.evaluate(self.task, run["recipe"], self.data, path, list(blocks))

    def segment(self, run: dict[str, Any], number: int) -> dict[str, Any]:
        state = run["state_paths"][number]
        bases = run["base_paths"] if number == self.task["segments"] - 1 else []
        return {"state_path": None if state is None else Path(state), "base_paths": bases}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("lattice"))


def opened(run: dict[str, Any]) -> Published:
    return lattice.published(Path(run["weights_path"]).read_bytes(), run["size"])


def test_another_slice_makes_the_joined_lattice_better(world: World) -> None:
    assert world.second["metric"] < world.first["metric"] - 50_000_000  # 0.05 bits per character
    assert world.second["metric"] == sum(world.second["losses"]) // world.task["val_bytes"]
    one, two = opened(world.first), opened(world.second)
    assert one.lattice.read.nonzero()[0].tolist() == [3]
    assert two.lattice.read.nonzero()[0].tolist() == [3, 40, 41]
    assert set(one.lattice.keys.tolist()) < set(two.lattice.keys.tolist())
    size = world.task["slice_characters"]
    assert two.base[0] == size and one.base[:2] == (0, 0)
    about = json.loads(Path(world.second["weights_path"]).read_bytes()[8:600].split(b"}", 1)[0] + b"}}")
    told = {name: int(value) for name, value in about["__metadata__"].items() if name != "format"}
    assert told["characters"] == 3 * size
    assert told["base_runs"] < told["runs"] < told["base_runs"] + told["own_runs"]  # some of it was known


def test_the_shipped_text_is_the_same_everywhere(world: World) -> None:
    version = metadata.version(lattice_data.CHINESE)
    if version != "4.5.post3":
        pytest.skip(f"{lattice_data.CHINESE} {version} has another text; the one that is known is 4.5.post3")
    assert world.built["sha256_text"] == "a5f8168408ee38159f0f003cf762bdaec2d9261d0c29aa69240acbfe3eca40e0"
    assert (world.built["train_characters"], world.built["val_characters"]) == (900_181, 71_703)


def test_the_shipped_text_has_both_languages_on_both_sides(world: World) -> None:
    text = lattice_data.load(world.data)
    for codes in (text.train, text.val):
        chinese = ((codes >= 0x3400) & (codes <= 0x9FFF)).mean()
        assert 0.01 < chinese < 0.2 and ((codes >= 97) & (codes <= 122)).mean() > 0.5


def test_chinese_is_read_without_running_the_package_and_passed_on_with_its_terms(world: World) -> None:
    assert lattice_data.CHINESE.replace("-", "_") not in sys.modules
    with safetensors.safe_open(world.data, "numpy") as blob:  # type: ignore[no-untyped-call]
        about = blob.metadata()
    assert about["licence"] == world.built["licence"] == lattice_data.LICENCE
    assert about["notice"].startswith("Copyright (c)") and "Redistributions in binary form" in about["notice"]


def test_without_the_package_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lattice_data, "CHINESE", "no-such-language-pack")
    with pytest.raises(DataError, match="no-such-language-pack; install it or give text_path"):
        lattice_data.build(tmp_path / "text")


@pytest.mark.parametrize("which", ["first", "second"])
def test_every_segment_replays_to_the_same_digests(world: World, which: str) -> None:
    run = getattr(world, which)
    for number in range(world.task["segments"]):
        found = lattice_harness.replay(
            world.task, run["recipe"], world.data, number, inner_step=1, **world.segment(run, number)
        )
        assert [found["start"], found["end"]] == run["digests"][number : number + 2]
        traced = lattice_harness.trace(
            world.task, run["recipe"], world.data, number, **world.segment(run, number)
        )
        assert traced["digests"][1] == found["inner"]
        assert (traced["digests"][0], traced["digests"][-1]) == (found["start"], found["end"])
    state = state_digest(bytes.fromhex(run["params"]), bytes.fromhex(run["tail"]))
    assert state.hex() == run["digests"][-1]


def test_any_blocks_have_the_losses_of_all_of_them(world: World) -> None:
    found = world.evaluate(world.second, blocks=[63, 4, 40])
    assert found["losses"] == [[block, world.second["losses"][block]] for block in (63, 4, 40)]
    assert found["params"] == world.second["params"]


def test_a_lattice_that_miscounts_a_slice_loses_the_block_of_its_number(world: World) -> None:
    one = opened(world.second)
    keys, counts = one.lattice.keys, one.lattice.counts.copy()
    counts[(keys & 63 == 40).nonzero()[0][5]] += 1
    lied = Published(lattice.Lattice(keys, counts, one.lattice.read, one.lattice.seen), one.base, one.recipe)
    found = dict(
        map(tuple, world.evaluate(world.second, lied.encode(world.task["slice_characters"]))["losses"])
    )
    assert lattice_harness.LOSS_MAX == LOSS_MAX
    assert [block for block, loss in found.items() if loss == LOSS_MAX] == [40]
    invented = one.lattice.read.copy()
    invented[7] = 255  # says that it has read what it has not
    lied = Published(
        lattice.Lattice(keys, one.lattice.counts, invented, one.lattice.seen), one.base, one.recipe
    )
    found = dict(
        map(tuple, world.evaluate(world.second, lied.encode(world.task["slice_characters"]))["losses"])
    )
    assert [block for block, loss in found.items() if loss == LOSS_MAX] == [7]
    forgot = one.lattice.seen.copy()
    forgot[:] = 0
    lied = Published(
        lattice.Lattice(keys, one.lattice.counts, one.lattice.read, forgot), one.base, one.recipe
    )
    found = dict(
        map(tuple, world.evaluate(world.second, lied.encode(world.task["slice_characters"]))["losses"])
    )
    assert [block for block, loss in found.items() if loss == LOSS_MAX] == [3, 40, 41]


def test_a_lattice_of_another_recipe_is_refused(world: World) -> None:
    with pytest.raises(DataError, match="another recipe"):
        world.evaluate({**world.second, "weights_path": world.first["weights_path"]})


def test_only_the_named_bases_are_joined(world: World) -> None:
    last = world.task["segments"] - 1
    for bases, words in (([], "0 were given"), ([Path(world.second["weights_path"])], "is not the lattice")):
        with pytest.raises(DataError, match=words):
            lattice_harness.replay(
                world.task, world.second["recipe"], world.data, last,
                **(world.segment(world.second, last) | {"base_paths": bases}),
            )  # fmt: skip


def test_merging_is_the_join_of_both_bases(world: World) -> None:
    third = world.train("third", slice=12)
    both = world.train("both", world.second, third, slice=12)
    other = world.train("other", third, world.second, slice=12)
    one, two = opened(both).lattice, opened(other).lattice
    assert one.read.nonzero()[0].tolist() == [3, 12, 40, 41]
    assert (one.keys == two.keys).all() and (one.counts == two.counts).all() and (one.seen == two.seen).all()
    assert both["metric"] == other["metric"] < third["metric"]
    assert both["params"] != other["params"]  # other recipes


def test_who_owns_some_ranges_writes_no_other_rows(world: World) -> None:
    half = world.train("half", world.first, slice=5, rows=0b1111)
    rest = world.train("rest", half, slice=5, rows=0b11110000)
    whole = world.train("whole", world.first, slice=5)
    assert opened(half).lattice.read[5] == 0b1111 and opened(rest).lattice.read[5] == 255
    assert (opened(rest).lattice.keys == opened(whole).lattice.keys).all()
    assert len(opened(half).lattice.keys) < len(opened(whole).lattice.keys)
    assert half["losses"] == [loss for _, loss in world.evaluate(half)["losses"]]


@pytest.mark.parametrize("number", [0, 4, 9])
def test_one_step_is_right_or_infinitely_far_off(world: World, number: int, tmp_path: Path) -> None:
    run, where = world.second, world.segment(world.second, number)
    steps = len(lattice_harness.trace(world.task, run["recipe"], world.data, number, **where)["digests"]) - 1
    traced = lattice_harness.trace(
        world.task, run["recipe"], world.data, number, save=range(steps + 1), out_dir=tmp_path, **where
    )
    saved = {step: Path(path) for step, path in traced["saved"]}
    for step in (1, steps):
        found = lattice_harness.step_distance(
            world.task, run["recipe"], world.data, number, step, before_path=saved[step - 1], after_path=saved[step],
            base_paths=where["base_paths"],
        )  # fmt: skip
        assert (found["before"], found["after"], found["ppm"]) == (*traced["digests"][step - 1 : step + 1], 0)
        other = {**run["recipe"], "slice": 50}  # the state before fits, the slice is another
        found = lattice_harness.step_distance(
            world.task, other, world.data, number, step, before_path=saved[step - 1], after_path=saved[step],
            base_paths=where["base_paths"],
        )  # fmt: skip
        assert found["ppm"] == lattice_harness.PPM_MAX
    start = lattice_harness.step_distance(
        world.task, run["recipe"], world.data, number, 0, before_path=where["state_path"]
    )
    assert (start["before"], start["after"], start["ppm"]) == (traced["digests"][0], None, 0)


def test_broken_states_and_tasks_are_refused(world: World, tmp_path: Path) -> None:
    run = world.second
    good = Path(run["state_paths"][4]).read_bytes()
    path = tmp_path / "state.safetensors"
    for raw in (b"", good[:-1], good + b"\0", good.replace(b'"keys"', b'"kEys"')):
        path.write_bytes(raw)
        with pytest.raises(DataError):
            lattice_harness.replay(world.task, run["recipe"], world.data, 4, state_path=path)
    path.write_bytes(good)
    with pytest.raises(DataError, match="starts"):
        lattice_harness.replay(world.task, run["recipe"], world.data, 5, state_path=path)
    for change in ({"segments": 0}, {"slice_characters": 10**9}, {"step_characters": None}, {"val_bytes": 5}):
        with pytest.raises(tasks.TaskError):
            lattice_harness.steps({**world.task, **change}, run["recipe"])
    with pytest.raises(DataError, match="slices of"):
        lattice_harness.replay({**world.task, "slice_characters": 16_700}, run["recipe"], world.data, 0)


def test_a_text_of_ones_own(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "\n\n".join(f"Paragraph {n} says {n * n % 977} things of {n % 91}." * 12 for n in range(1_500))
    )
    built = lattice_data.build(tmp_path / "data", text)
    run = lattice_harness.train(
        built["task"], dict(lattice_recipe.BASELINE), tmp_path / "data", tmp_path / "run"
    )
    assert run["metric"] < 4_000_000_000
    text.write_text("too short")
    with pytest.raises(DataError, match="are needed"):
        lattice_data.build(tmp_path / "data", text)


def test_the_evaluators_have_digests_of_their_own() -> None:
    assert lattice_harness.lattice_digest() != harness.harness_digest()
    assert not set(lattice_harness.SOURCES) & set(digest.SOURCES)


def test_nothing_of_it_needs_torch() -> None:
    code = (
        "import sys; from workspace import lattice_data, lattice_harness, lattice_model, sketch; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_the_worker_tells_lattices_from_other_experiments(world: World) -> None:
    run, last = world.second, world.task["segments"] - 1
    common = {"task": world.task, "recipe": run["recipe"], "data_path": str(world.data)}
    bases = {"base_paths": [str(path) for path in run["base_paths"]]}

    async def main() -> None:
        seen: list[dict[str, Any]] = []
        async with Worker(device="cpu") as worker:
            about = await worker.call("hello")
            assert about["lattice"] == lattice_harness.lattice_digest().hex()
            job = {**common, **bases, "seed": 1, "out_dir": str(world.room / "piped")}
            done = await worker.call("train", job, seen.append)
            assert (done["metric"], done["params"]) == (run["metric"], run["params"])
            assert seen[-1]["step"] == done["steps"]
            planned = await worker.call("steps", {"task": world.task, "recipe": run["recipe"]})
            assert planned["steps"] == done["steps"]
            job = {**common, **bases, "seed": 1, "segment": last, "state_path": run["state_paths"][last]}
            replayed = await worker.call("replay", job)
            assert [replayed["start"], replayed["end"]] == run["digests"][-2:]
            job = {**common, "weights_path": run["weights_path"], "blocks": [0, 5]}
            assert (await worker.call("evaluate", job))["params"] == run["params"]
            for change, kind in (
                ({"recipe": {**run["recipe"], "slice": 99}}, "recipe"), ({"weights_path": str(world.data)}, "data"),
                ({"blocks": ["x"]}, "request"), ({"task": {**world.task, "blocks": 1}}, "task"),
            ):  # fmt: skip
                with pytest.raises(WorkerRefused) as refused:
                    await worker.call("evaluate", {**job, **change})
                assert refused.value.fields["kind"] == kind

    trio.run(main)


def test_files_that_are_too_large_are_not_read(world: World, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # sparse: nothing is written
    with pytest.raises(DataError, match="at most"):
        lattice_harness.evaluate(world.task, world.first["recipe"], world.data, path, [0])
    with pytest.raises(DataError, match="at most"):
        lattice_harness.replay(world.task, world.first["recipe"], world.data, 3, state_path=path)
