"""What the worker is asked to do, as plain functions of plain values: train, evaluate, replay, trace a segment,
measure one step.

Torch is imported only when one of them is called; `harness_digest` needs none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace import digest

if TYPE_CHECKING:
    from workspace.data import Dataset
    from workspace.train import Run

CURVE_POINTS_MAX = 64
PPM_MAX = 1_000_000_000  # a relative error that counts as infinite
harness_digest = digest.harness_digest

Each = Callable[[int, int, float], None]  # (steps done, steps in all, loss in nats)


def steps(task: Mapping[str, Any], recipe: Mapping[str, object]) -> dict[str, int]:
    """``steps flops_per_step params_count`` of a recipe. Raises RecipeError, TaskError."""
    from workspace.train import plan

    found = plan(task, recipe)
    return {
        "steps": found.steps,
        "flops_per_step": found.flops_per_step,
        "params_count": found.params_count,
    }


def curve(losses: Sequence[float]) -> list[int]:
    """At most CURVE_POINTS_MAX means of equal stretches of the training loss, in micro-nats."""
    points = min(CURVE_POINTS_MAX, len(losses))
    edges = [index * len(losses) // points for index in range(points + 1)] if points else []
    stretches = [losses[low:high] for low, high in itertools.pairwise(edges)]
    return [round(sum(stretch) / len(stretch) * 1e6) for stretch in stretches]


def train(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    seed: int,
    data_path: Path,
    out_dir: Path,
    *,
    device: str = "cpu",
    each: Each | None = None,
) -> dict[str, Any]:
    """Train and evaluate one recipe.

    Writes ``state-K.safetensors`` for the starts of segments 1 … K-1 (the start of segment 0 follows from the
    seed, so its path is None) and ``weights.safetensors`` into ``out_dir``.

    Returns:
        ``status: done`` with ``metric losses digests params tail weights_path state_paths steps flops cpu_ms
        params_count curve``, or ``status: crashed`` with ``error step steps flops cpu_ms params_count curve``.
    Raises:
        DataError, RecipeError, TaskError: the inputs do not fit; no run took place.
    """
    from workspace import data, evaluate
    from workspace.train import CpuLimit, Crashed, Run, deterministic, quiet_gradients

    deterministic()
    limit = CpuLimit(int(task.get("cpu_s_max", 0)))
    tokens = data.load(data_path)
    run = Run(task, recipe, seed, tokens, device)
    counted = evaluate.val_bytes(task, tokens)
    if counted != int(task["val_bytes"]):
        raise data.DataError(f"the data has {counted} validation bytes, the task says {task['val_bytes']}")
    segments = int(task["segments"])
    out_dir.mkdir(parents=True, exist_ok=True)
    seen: list[float] = []

    def after(step: int, loss: float) -> None:
        seen.append(loss)
        limit.check(step)
        if each is not None:
            each(step, run.plan.steps, loss)

    result: dict[str, Any] = {"params_count": run.plan.params_count}
    try:
        with quiet_gradients(run.model):
            digests, paths = _to_the_end(run, segments, out_dir, after)
        result |= _measured(run, task, tokens, out_dir, digests, paths)
    except Crashed as crash:
        for left in out_dir.glob("state-*.safetensors"):
            left.unlink()
        result |= {"status": "crashed", "error": str(crash), "step": crash.step}
    return {
        **result,
        "steps": run.step,
        "flops": run.step * run.plan.flops_per_step,
        "cpu_ms": limit.spent_ms(),
        "curve": curve(seen),
    }


def _to_the_end(
    run: Run, segments: int, out_dir: Path, after: Callable[[int, float], None]
) -> tuple[list[str], list[str | None]]:
    """Run every segment; the digest of each start state, and the file of each but the first."""
    digests: list[str] = []
    paths: list[str | None] = []
    for index in range(segments):
        digests.append(run.digests()[0].hex())
        path = out_dir / f"state-{index}.safetensors" if index else None
        if path is not None:
            run.save_state(path)
        paths.append(None if path is None else str(path))
        run.to(run.plan.boundary(index + 1, segments), after)
    return digests, paths


def _measured(
    run: Run,
    task: Mapping[str, Any],
    tokens: Dataset,
    out_dir: Path,
    digests: list[str],
    paths: list[str | None],
) -> dict[str, Any]:
    """What a run that reached its end gives: digests, losses and the file of its weights. Raises Crashed."""
    from workspace import evaluate
    from workspace.train import Crashed

    state, params, tail = run.digests()
    try:
        losses = evaluate.losses(run.model, task, tokens, range(int(task["blocks"])), run.device)
    except evaluate.NotFinite as broken:
        raise Crashed(str(broken), run.step) from broken
    run.save_weights(out_dir / "weights.safetensors")
    return {
        "status": "done",
        "metric": evaluate.metric(task, losses),
        "losses": losses,
        "digests": [*digests, state.hex()],
        "params": params.hex(),
        "tail": tail.hex(),
        "weights_path": str(out_dir / "weights.safetensors"),
        "state_paths": paths,
    }


def evaluate(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    data_path: Path,
    weights_path: Path,
    blocks: Sequence[int],
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """``losses [[block, nano-bits], …]`` of published weights, and ``params``, the digest of what was evaluated.

    Raises:
        DataError, RecipeError, TaskError: the weights, blocks or data do not fit the recipe or the task.
    """
    import torch

    from workspace import data
    from workspace import evaluate as evaluator
    from workspace.train import deterministic, load_weights

    deterministic()
    model, params = load_weights(task, recipe, weights_path, device)
    found = evaluator.losses(model, task, data.load(data_path), blocks, torch.device(device))
    return {"losses": [list(pair) for pair in zip(blocks, found, strict=True)], "params": params.hex()}


def replay(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    seed: int,
    data_path: Path,
    segment: int,
    *,
    state_path: Path | None = None,
    inner_step: int = 0,
    to_end: bool = True,
    device: str = "cpu",
    each: Each | None = None,
) -> dict[str, Any]:
    """Run one segment again: state digests at its ``start``, after ``inner_step`` of its steps, and at its ``end``.

    Args:
        segment: 0 … K-1; only segment 0 needs no ``state_path``.
        inner_step: 0 (the start) to the length of the segment (its end).
        to_end: false stops after the inner step, and ``end`` repeats ``inner`` (an author knows its end).
    Raises:
        DataError: no such segment or step, or the state is not one of this recipe at this segment's start.
        Crashed: the segment diverges, which its author must have seen as well.
    """
    from workspace import data
    from workspace.train import CpuLimit, quiet_gradients

    run, begin, end = _segment(task, recipe, seed, data_path, segment, device)
    limit = CpuLimit(int(task["cpu_s_max"]))
    if not 0 <= inner_step <= end - begin:
        raise data.DataError(f"no step {inner_step} in segment {segment}; it has {end - begin} steps")
    _start(run, f"segment {segment}", begin, state_path)

    def after(step: int, loss: float) -> None:
        limit.check(step)
        if each is not None:
            each(step - begin, end - begin, loss)

    found = {"start": run.digests()[0].hex()}
    with quiet_gradients(run.model):
        run.to(begin + inner_step, after)
        found["inner"] = found["end"] = run.digests()[0].hex()
        if to_end:
            run.to(end, after)
            found["end"] = run.digests()[0].hex()
    return {**found, "steps": run.step - begin, "cpu_ms": limit.spent_ms()}


def trace(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    seed: int,
    data_path: Path,
    segment: int,
    *,
    state_path: Path | None = None,
    save: Sequence[int] = (),
    out_dir: Path | None = None,
    device: str = "cpu",
    each: Each | None = None,
) -> dict[str, Any]:
    """Run one segment again and tell every state: ``digests`` of its start and after each of its n steps.

    Args:
        save: inner steps (0 … n) whose states are written into ``out_dir``; ``saved`` is their
            ``[[inner step, path], …]``.
    Raises:
        DataError, Crashed: as ``replay``.
    """
    from workspace import data
    from workspace.train import CpuLimit, quiet_gradients

    run, begin, end = _segment(task, recipe, seed, data_path, segment, device)
    limit = CpuLimit(int(task["cpu_s_max"]))
    if save and (out_dir is None or not all(0 <= inner <= end - begin for inner in save)):
        raise data.DataError(f"states to save are steps 0 to {end - begin} of a segment, with an out_dir")
    _start(run, f"segment {segment}", begin, state_path)
    digests: list[str] = []
    saved: list[list[Any]] = []

    def note(step: int) -> None:
        digests.append(run.digests()[0].hex())
        if out_dir is not None and step - begin in save:
            out_dir.mkdir(parents=True, exist_ok=True)
            path = out_dir / f"step-{step}.safetensors"
            run.save_state(path)
            saved.append([step - begin, str(path)])

    def after(step: int, loss: float) -> None:
        limit.check(step)
        note(step)
        if each is not None:
            each(step - begin, end - begin, loss)

    note(begin)
    with quiet_gradients(run.model):
        run.to(end, after)
    return {"digests": digests, "saved": saved, "cpu_ms": limit.spent_ms()}


def step_distance(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    seed: int,
    data_path: Path,
    segment: int,
    step: int,
    *,
    before_path: Path | None,
    after_path: Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run step ``step`` (1 … n) of a segment from the state ``before_path`` and compare with ``after_path``.

    Returns:
        ``before`` and ``after`` (hex digests of the two files) and ``ppm``: the relative error
        ‖own - given‖ / ‖given - before‖ in millionths, rounded, the largest over the parameters and each kind
        of optimizer memory; at most PPM_MAX. Step 0 has no ``after_path``: only the start state is read (segment
        0 has none, its start follows from the seed), and ``after`` is null.
    Raises:
        DataError: no such segment or step, or a state that is not one of this recipe at this step.
        Crashed: the step diverges.
    """
    from workspace import data
    from workspace.train import CpuLimit, quiet_gradients

    run, begin, end = _segment(task, recipe, seed, data_path, segment, device)
    limit = CpuLimit(int(task["cpu_s_max"]))
    if not 0 <= step <= end - begin or (step == 0) != (after_path is None):
        raise data.DataError(f"steps 1 to {end - begin} of segment {segment} have two states, step 0 has one")
    _start(run, "the state before", begin + max(0, step - 1), before_path)
    before = {name: array.copy() for name, array in _state(run).items()}
    found: dict[str, Any] = {"before": run.digests()[0].hex(), "after": None, "ppm": 0}
    if after_path is not None:
        other, _, _ = _segment(task, recipe, seed, data_path, segment, device)
        _start(other, "the state after", begin + step, after_path)
        found["after"] = other.digests()[0].hex()
        with quiet_gradients(run.model):
            run.to(begin + step)
        found["ppm"] = relative_ppm(_state(run), _state(other), before)
    return {**found, "cpu_ms": limit.spent_ms()}


def relative_ppm(own: Mapping[str, Any], given: Mapping[str, Any], before: Mapping[str, Any]) -> int:
    """‖own - given‖ / ‖given - before‖ in millionths: the largest of the groups ``p.``, ``m.``, ``v.``.

    Each group has its own scale, so a lie in one of them cannot hide behind the size of another. A group in
    which nothing moves gives 0 if both agree; what is not finite, or beyond it, gives PPM_MAX.
    """
    import numpy as np

    sums: dict[str, list[float]] = {}
    with np.errstate(all="ignore"):
        for name in sorted(before):
            moved = given[name].astype(np.float64) - before[name]
            apart = own[name].astype(np.float64) - given[name]
            total = sums.setdefault(name.partition(".")[0], [0.0, 0.0])
            total[0] += float(np.square(apart).sum())
            total[1] += float(np.square(moved).sum())
    worst = 0
    for apart_square, moved_square in sums.values():
        if apart_square == 0 and math.isfinite(moved_square):
            continue
        ratio = math.sqrt(apart_square / moved_square) * 1e6 if moved_square else math.inf
        worst = max(worst, round(ratio) if ratio < PPM_MAX else PPM_MAX)  # not a number: PPM_MAX
    return worst


def _segment(
    task: Mapping[str, Any],
    recipe: Mapping[str, object],
    seed: int,
    data_path: Path,
    segment: int,
    device: str,
) -> tuple[Any, int, int]:
    """A run that has not begun, and the bounds of one of its segments. Raises DataError."""
    from workspace import data
    from workspace.train import Run, deterministic

    deterministic()
    run = Run(task, recipe, seed, data.load(data_path), device)
    segments = int(task["segments"])
    if not 0 <= segment < segments:
        raise data.DataError(f"no segment {segment}; the task has segments 0 to {segments - 1}")
    return run, run.plan.boundary(segment, segments), run.plan.boundary(segment + 1, segments)


def _start(run: Any, what: str, step: int, state_path: Path | None) -> None:
    """Continue ``what`` from a state file, which must be of this step. Raises DataError."""
    from workspace import data

    if state_path is not None:
        run.load_state(state_path)
    if run.step != step:
        raise data.DataError(f"{what} starts at step {step}; the state given is of step {run.step}")


def _state(run: Any) -> dict[str, Any]:
    """All tensors that a step moves, by group and name."""
    memory = run.tail()
    del memory["step"]
    return {**{"p." + name: array for name, array in run.parameters().items()}, **memory}
