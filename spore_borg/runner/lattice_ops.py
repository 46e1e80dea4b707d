"""The worker's operations on tasks of kind ``lattice``: the same names and answers as those of experiments.

They take ``base_paths`` beside what the others take: the published lattices of the bases, in the recipe's order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spore_borg.runner.absorb_ops import OpError, get

KIND = "lattice"
Params = dict[str, Any]
Each = Callable[[int, int, float], None]  # (steps done, steps in all, loss)
Op = Callable[[Params, Each], dict[str, Any]]


def is_lattice(params: Params) -> bool:
    """Whether a request is about such a task."""
    task = params.get("task")
    return (task.get("kind") if isinstance(task, dict) else params.get("kind")) == KIND


def dataset(params: Params, _each: Each) -> dict[str, Any]:
    """Build the blob of a text: ``path corpus licence sha256_text train_characters val_characters task``."""
    from workspace import lattice_data

    about = {name: get(params, name, str, "") for name in ("corpus", "licence")}
    return lattice_data.build(Path(get(params, "out", str)), _path(params, "text_path"), **about)


def steps(params: Params, _each: Each) -> dict[str, Any]:
    """Steps, characters per step and characters of a recipe."""
    from workspace import lattice_harness

    return dict(lattice_harness.steps(get(params, "task", dict), get(params, "recipe", dict)))


def train(params: Params, each: Each) -> dict[str, Any]:
    """Read what a recipe says and join it with its bases."""
    from workspace import lattice_harness

    return lattice_harness.train(
        get(params, "task", dict), get(params, "recipe", dict), Path(get(params, "data_path", str)),
        Path(get(params, "out_dir", str)), base_paths=_bases(params), each=each,
    )  # fmt: skip


def evaluate(params: Params, _each: Each) -> dict[str, Any]:
    """Code lengths of some blocks, and whether the slices of their numbers are counted rightly."""
    from workspace import lattice_harness

    return lattice_harness.evaluate(
        get(params, "task", dict), get(params, "recipe", dict), Path(get(params, "data_path", str)),
        Path(get(params, "weights_path", str)), _numbers(params, "blocks"),
    )  # fmt: skip


def replay(params: Params, each: Each) -> dict[str, Any]:
    """Count one segment again."""
    from workspace import lattice_harness

    return lattice_harness.replay(
        get(params, "task", dict), get(params, "recipe", dict), Path(get(params, "data_path", str)),
        get(params, "segment", int), state_path=_path(params, "state_path"), base_paths=_bases(params),
        inner_step=get(params, "inner_step", int, 0), to_end=get(params, "to_end", bool, True), each=each,
    )  # fmt: skip


def trace(params: Params, each: Each) -> dict[str, Any]:
    """The digest of every state of a segment; some states are saved."""
    from workspace import lattice_harness

    return lattice_harness.trace(
        get(params, "task", dict), get(params, "recipe", dict), Path(get(params, "data_path", str)),
        get(params, "segment", int), state_path=_path(params, "state_path"), base_paths=_bases(params),
        save=_numbers(params, "save"), out_dir=_path(params, "out_dir"), each=each,
    )  # fmt: skip


def step_distance(params: Params, _each: Each) -> dict[str, Any]:
    """Whether one step leads from one published state to the next."""
    from workspace import lattice_harness

    return lattice_harness.step_distance(
        get(params, "task", dict), get(params, "recipe", dict), Path(get(params, "data_path", str)),
        get(params, "segment", int), get(params, "step", int), before_path=_path(params, "before_path"),
        after_path=_path(params, "after_path"), base_paths=_bases(params),
    )  # fmt: skip


OPS: dict[str, Op] = {
    "dataset": dataset, "steps": steps, "train": train, "evaluate": evaluate, "replay": replay, "trace": trace,
    "step_distance": step_distance,
}  # fmt: skip


def _path(params: Params, name: str) -> Path | None:
    return None if params.get(name) is None else Path(get(params, name, str))


def _bases(params: Params) -> list[Path]:
    paths = get(params, "base_paths", list, [])
    if not all(type(path) is str for path in paths):
        raise OpError("base_paths is a list of paths")
    return [Path(path) for path in paths]


def _numbers(params: Params, name: str) -> list[int]:
    numbers = get(params, name, list, [])
    if not all(type(number) is int for number in numbers):
        raise OpError(f"{name} is a list of whole numbers")
    return list(numbers)
