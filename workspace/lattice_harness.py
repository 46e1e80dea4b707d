"""What the worker is asked to do on a lattice task: the contract of ``workspace.harness`` in whole numbers.

A run reads its slices in steps of some hundred characters. Its states hold what it has counted itself; only the last
state, after the last step, is joined with the lattices of its bases, and that is what is published. So of the segments
only the last needs the bases, and a state stays small however large the lattice grows. Nothing here needs torch.
Spec: spec/53-lattice.md.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workspace import lattice_data as texts
from workspace import lattice_model as models
from workspace import lattice_recipe as recipes
from workspace import sketch
from workspace.lattice import (
    READABLE,
    SLICES,
    DataError,
    Ints,
    Lattice,
    Published,
    added,
    characters_read,
    counted,
    decode,
    digest,
    empty,
    encode,
    join,
    published,
    read_file,
)
from workspace.recipe import Recipe
from workspace.tasks import TaskError

SOURCES = (
    "lattice.py", "lattice_data.py", "lattice_harness.py", "lattice_model.py", "lattice_recipe.py", "radicals.py",
    "radicals.txt", "sketch.py",
)  # fmt: skip
LOSS_MAX = (1 << 62) - 1  # nano-bits of a block whose slice is counted wrongly: no claim can have it
PPM_MAX = 1_000_000_000  # a relative error that counts as infinite
_STATE = {"counts": "I32", "keys": "I64", "seen": "U8", "step": "I64"}

Each = Callable[[int, int, float], None]  # (steps done, steps in all, 0.0: counting has no loss)


def lattice_digest() -> bytes:
    """sha256 over the sources that decide a result: the evaluator digest of a lattice task, 32 bytes."""
    total = hashlib.sha256()
    for name in SOURCES:
        source = resources.files("workspace").joinpath(name).read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{name}\0{len(source)}\0".encode() + source)
    return total.digest()


def _steps_per_slice(task: Mapping[str, Any]) -> int:
    return -(-int(task["slice_characters"]) // int(task["step_characters"]))


def steps(task: Mapping[str, Any], recipe: Mapping[str, object]) -> dict[str, int]:
    """``steps flops_per_step params_count`` of a recipe: an operation is a character that is read.

    Raises:
        RecipeError, TaskError: the inputs do not fit.
    """
    texts.check_task(task)
    slices = int(recipes.validate(recipe)["slices"])
    count = slices * _steps_per_slice(task)
    if count < int(task["segments"]):
        raise TaskError(f"a slice has {count} steps and the task {task['segments']} segments")
    size = int(task["slice_characters"])
    return {
        "steps": count, "flops_per_step": min(size, int(task["step_characters"])), "params_count": slices * size,
    }  # fmt: skip


class Run:
    """One experiment while it reads.

    Attributes:
        step: steps done; own: what was counted so far; joined: what is published, after the last step.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        recipe: Mapping[str, object],
        text: texts.Text,
        bases: Sequence[Path] = (),
    ) -> None:
        self.task, self.recipe, self.text = task, recipes.validate(recipe), text
        self.steps = steps(task, recipe)["steps"]
        self.slices = recipes.slices_of(self.recipe)
        self._paths = bases
        self.step = 0
        self.own = empty()
        self.joined: Published | None = None

    def boundary(self, segment: int) -> int:
        """The step at which a segment begins."""
        return segment * self.steps // int(self.task["segments"])

    def to(self, step: int, each: Callable[[int], None] | None = None) -> None:
        """Go on to this step; the last one joins the bases."""
        while self.step < step:
            self._one()
            if self.step == self.steps:
                self.joined = self._join()
            if each is not None:
                each(self.step)

    def _one(self) -> None:
        """Count the pairs that end in the next piece of a slice."""
        size, per_slice = int(self.task["step_characters"]), _steps_per_slice(self.task)
        number, piece = divmod(self.step, per_slice)
        slice_, begin = self.slices[number], piece * size
        text = texts.slice_of(self.task, self.text, slice_)
        end = min(begin + size, len(text))
        found = counted(text, slice_, int(self.recipe["rows"]), max(1, begin), end)
        keys, counts = added(self.own.keys, self.own.counts, *found)
        seen = sketch.join(self.own.seen, sketch.of(text[max(0, begin - sketch.GRAM + 1) : end]))
        self.own = Lattice(keys, counts, self.own.read, seen)
        self.step += 1

    def _join(self) -> Published:
        read = np.zeros(SLICES, np.int64)
        read[list(self.slices)] = int(self.recipe["rows"])
        base = empty()
        for one in self._bases():
            base = join(base, one.lattice)
        size = int(self.task["slice_characters"])
        about = characters_read(base.read, size), sketch.count(base.seen), sketch.count(self.own.seen)
        joined = join(base, Lattice(self.own.keys, self.own.counts, read, self.own.seen))
        return Published(joined, about, recipes.digest(self.recipe))

    def _bases(self) -> list[Published]:
        wanted = recipes.bases_of(self.recipe)
        if len(self._paths) != len(wanted):
            raise DataError(f"the recipe starts from {len(wanted)} lattices, {len(self._paths)} were given")
        size = int(self.task["slice_characters"])
        found = [published(read_file(path), size) for path in self._paths]
        for one, name in zip(found, wanted, strict=True):
            if one.params.hex() != name:
                raise DataError(f"a base is not the lattice {name[:12]}… that the recipe names")
        return found

    # ---- states

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a state file holds before the last step."""
        one = self.own
        return {
            "counts": one.counts.astype(np.int32), "keys": one.keys, "seen": one.seen,
            "step": np.array([self.step], np.int64),
        }  # fmt: skip

    def digests(self) -> tuple[bytes, bytes, bytes]:
        """(state, params, tail): 32 bytes each; state = sha256("state" ‖ params ‖ tail)."""
        params = digest(self.tensors()) if self.joined is None else self.joined.params
        tail = hashlib.sha256(
            b"lattice" + recipes.digest(self.recipe) + self.step.to_bytes(8, "big")
        ).digest()
        return hashlib.sha256(b"state" + params + tail).digest(), params, tail

    def save(self, path: Path) -> None:
        """Write the state: own counts, or after the last step the published lattice."""
        size = int(self.task["slice_characters"])
        path.write_bytes(encode(self.tensors(), {}) if self.joined is None else self.joined.encode(size))

    def load(self, path: Path) -> None:
        """Go on from a state file. Raises DataError for one that is not in canonical form."""
        raw = read_file(path)
        found = decode(raw, _STATE)
        if found["step"].shape != (1,) or not 0 <= int(found["step"][0]) < self.steps:
            raise DataError("a state of a lattice has a step of its run")
        if encode(found, {}) != raw or found["seen"].shape != (sketch.REGISTERS,):
            raise DataError("this state is not in canonical form")
        keys, counts = found["keys"], found["counts"].astype(np.int64)
        if len(keys) != len(counts) or (
            len(keys) and (int(counts.min()) < 1 or int(np.diff(keys).min(initial=1)) < 1)
        ):
            raise DataError("a state has ascending entries with a count each")
        self.step = int(found["step"][0])
        self.own = Lattice(keys, counts, self.own.read, found["seen"])


def train(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    out_dir: Path,
    *,
    base_paths: Sequence[Path] = (),
    each: Each | None = None,
) -> dict[str, Any]:
    """Read, join and evaluate: the answer of ``workspace.harness.train``. No seed: nothing is left to chance.

    Raises:
        DataError, RecipeError, TaskError: the inputs do not fit; no run took place.
    """
    began = time.process_time_ns()
    run = Run(task, recipe, texts.load(data_path), base_paths)
    segments = int(task["segments"])
    out_dir.mkdir(parents=True, exist_ok=True)
    digests: list[str] = []
    paths: list[str | None] = []
    for segment in range(segments):
        digests.append(run.digests()[0].hex())
        path = out_dir / f"state-{segment}.safetensors" if segment else None
        if path is not None:
            run.save(path)
        paths.append(None if path is None else str(path))
        run.to(run.boundary(segment + 1), _pace(each, run.steps))
    assert run.joined is not None, "all steps are done"
    state, params, tail = run.digests()
    losses = _losses(run.joined, run.recipe, task, run.text, range(int(task["blocks"])))
    weights = out_dir / "weights.safetensors"
    run.save(weights)
    return {
        "status": "done", "metric": sum(losses) // int(task["val_bytes"]), "losses": losses,
        "digests": [*digests, state.hex()], "params": params.hex(), "tail": tail.hex(), "weights_path": str(weights),
        "state_paths": paths, "steps": run.steps, "flops": len(run.slices) * int(task["slice_characters"]),
        "cpu_ms": _since_ms(began), "params_count": len(run.joined.lattice.keys), "curve": [],
    }  # fmt: skip


def _pace(each: Each | None, steps_: int) -> Callable[[int], None] | None:
    return None if each is None else lambda step: each(step, steps_, 0.0)


def _since_ms(began_ns: int) -> int:
    return (time.process_time_ns() - began_ns) // 1_000_000


def _losses(
    one: Published, recipe: Recipe, task: Mapping[str, Any], text: texts.Text, blocks: Sequence[int]
) -> list[int]:
    """Code length of each block in nano-bits; LOSS_MAX where the slice of the block's number is counted wrongly."""
    held = texts.held(task, text)
    model = models.model(one.lattice, recipe, models.weights(one.lattice, str(recipe["weights"]), held))
    return [
        models.to_nano(models.length(model, texts.block_of(task, text, block)))
        if _is_true(one.lattice, block, texts.slice_of(task, text, block)) else LOSS_MAX
        for block in blocks
    ]  # fmt: skip


def _is_true(lattice: Lattice, slice_: int, text: Ints) -> bool:
    """Whether what a lattice says of a slice is what the slice's text says."""
    ranges = int(lattice.read[slice_])
    if slice_ == READABLE or not ranges:
        return True  # entries outside of what was read are refused when the file is read
    keys, counts = counted(text, slice_, ranges)
    own = lattice.keys & 63 == slice_
    return (
        np.array_equal(lattice.keys[own], keys)
        and np.array_equal(lattice.counts[own], counts)
        and bool((sketch.of(text) <= lattice.seen).all())
    )


def evaluate(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    weights_path: Path,
    blocks: Sequence[int],
) -> dict[str, Any]:
    """``losses [[block, nano-bits], …]`` of a published lattice, and ``params``, its digest.

    With block n, slice n is counted again: a lattice that says something else of it gets a loss that nobody claims.

    Raises:
        DataError, RecipeError, TaskError: the lattice, blocks or data do not fit the recipe or the task.
    """
    began = time.process_time_ns()
    texts.check_task(task)
    checked, text = recipes.validate(recipe), texts.load(data_path)
    one = published(read_file(weights_path), int(task["slice_characters"]))
    if one.recipe != recipes.digest(checked):
        raise DataError("this lattice was published for another recipe")
    found = _losses(one, checked, task, text, blocks)
    return {
        "losses": [list(pair) for pair in zip(blocks, found, strict=True)], "params": one.params.hex(),
        "cpu_ms": _since_ms(began),
    }  # fmt: skip


def replay(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    segment: int,
    *,
    state_path: Path | None = None,
    base_paths: Sequence[Path] = (),
    inner_step: int = 0,
    to_end: bool = True,
    each: Each | None = None,
) -> dict[str, Any]:
    """Run one segment again, as ``workspace.harness.replay``; the last one needs the bases.

    Raises:
        DataError: no such segment or step, or the state is not one of this recipe at this segment's start.
    """
    began = time.process_time_ns()
    run, first, last = _segment(task, recipe, data_path, segment, base_paths)
    if not 0 <= inner_step <= last - first:
        raise DataError(f"no step {inner_step} in segment {segment}; it has {last - first} steps")
    _start(run, first, state_path)
    pace = _pace(each, run.steps)
    found = {"start": run.digests()[0].hex()}
    run.to(first + inner_step, pace)
    found["inner"] = found["end"] = run.digests()[0].hex()
    if to_end:
        run.to(last, pace)
        found["end"] = run.digests()[0].hex()
    return {**found, "steps": run.step - first, "cpu_ms": _since_ms(began)}


def trace(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    segment: int,
    *,
    state_path: Path | None = None,
    base_paths: Sequence[Path] = (),
    save: Sequence[int] = (),
    out_dir: Path | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """Every state of a segment, as ``workspace.harness.trace``. Raises DataError."""
    began = time.process_time_ns()
    run, first, last = _segment(task, recipe, data_path, segment, base_paths)
    if save and (out_dir is None or not all(0 <= inner <= last - first for inner in save)):
        raise DataError(f"states to save are steps 0 to {last - first} of a segment, with an out_dir")
    _start(run, first, state_path)
    digests: list[str] = []
    saved: list[list[Any]] = []

    def note(step: int) -> None:
        digests.append(run.digests()[0].hex())
        if out_dir is not None and step - first in save:
            out_dir.mkdir(parents=True, exist_ok=True)
            path = out_dir / f"step-{step}.safetensors"
            run.save(path)
            saved.append([step - first, str(path)])
        if each is not None:
            each(step, run.steps, 0.0)

    note(first)
    run.to(last, note)
    return {"digests": digests, "saved": saved, "cpu_ms": _since_ms(began)}


def step_distance(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    segment: int,
    step: int,
    *,
    before_path: Path | None,
    after_path: Path | None = None,
    base_paths: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run one step between two published states, as ``workspace.harness.step_distance``.

    Counts are exact, so ``ppm`` is 0 where the step gives the state after it, and PPM_MAX where it does not.

    Raises:
        DataError: no such segment or step, or a state that is not one of this recipe at this step.
    """
    began = time.process_time_ns()
    run, first, last = _segment(task, recipe, data_path, segment, base_paths)
    if not 0 <= step <= last - first or (step == 0) != (after_path is None):
        raise DataError(f"steps 1 to {last - first} of segment {segment} have two states, step 0 has one")
    _start(run, first + max(0, step - 1), before_path)
    found: dict[str, Any] = {"before": run.digests()[0].hex(), "after": None, "ppm": 0}
    if after_path is not None:
        given, _, _ = _segment(task, recipe, data_path, segment, base_paths)
        if first + step == run.steps:
            given.step, given.joined = (
                run.steps,
                published(read_file(after_path), int(task["slice_characters"])),
            )
        else:
            _start(given, first + step, after_path)
        found["after"] = given.digests()[0].hex()
        run.to(first + step)
        found["ppm"] = 0 if run.digests() == given.digests() else PPM_MAX
    return {**found, "cpu_ms": _since_ms(began)}


def _segment(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    segment: int,
    bases: Sequence[Path],
) -> tuple[Run, int, int]:
    """A run that has not begun, and the bounds of one of its segments. Raises DataError."""
    run = Run(task, recipe, texts.load(data_path), bases)
    segments = int(task["segments"])
    if not 0 <= segment < segments:
        raise DataError(f"no segment {segment}; the task has segments 0 to {segments - 1}")
    return run, run.boundary(segment), run.boundary(segment + 1)


def _start(run: Run, step: int, state_path: Path | None) -> None:
    """Continue from a state file, which must be of this step. Raises DataError."""
    if state_path is not None:
        run.load(state_path)
    if run.step != step:
        raise DataError(f"step {step} is where this starts; the state given is of step {run.step}")
