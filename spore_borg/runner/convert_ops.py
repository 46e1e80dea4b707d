"""The worker's operations that convert and measure: ``absorb``, ``measure`` and ``redo``. ``learn`` does the work."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spore_borg.runner.absorb_ops import Op, OpError, Params, Report, get, model_of, pairs

if TYPE_CHECKING:
    from torch import Tensor

    from spore_borg.learn.graph import Model
    from spore_borg.learn.items import Item
    from spore_borg.learn.shard import Shard
    from spore_borg.learn.spike.calibrate import Threshold
    from spore_borg.learn.suite import Suite

PASSES = 32  # times that a conversion or refinement may run its calibration items
REPORT_BATCHES = 4  # batches of calibration items that a report compares
_last: dict[
    str, Any
] = {}  # the thresholds that the last redo found, and of what; numbers of channels, so small


def absorb(params: Params, report: Report) -> dict[str, Any]:
    """Convert a model (also a merged one), or refine its shard, and measure it: docs/internals/absorption.md."""
    from spore_borg.learn.shard import open_shard
    from spore_borg.learn.spike import convert as converting
    from spore_borg.learn.spike.run import report as compare
    from spore_borg.learn.suite import open_suite

    began_ms, model = _cpu_ms(), model_of(params)
    path = Path(get(params, "out_dir", str)) / "shard.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    rule, steps, segments = get(params, "rule", str), get(params, "steps", int), _segments(params)

    def each(name: str, done: int, count: int) -> None:
        report("converts", done, count)

    report("counts operations of", 0, 0)
    with open_suite(_path(params, "suite_path")) as suite:
        ops = _counted(params, model, suite)
        report("calibrates", 0, 0)
        feeds = _feeds(model, suite.calibration(model.info.modality))
        with _bounded(ops, feeds):
            if params.get("base_path") is None:
                shard = converting.convert(
                    model, feeds, rule=rule, steps=steps, segments=segments, out=path, each=each
                )
            else:
                from spore_borg.learn.spike.refine import refine

                base = open_shard(_path(params, "base_path"))
                shard = refine(model, feeds, base, path, each=each)
        report("compares", 0, 0)
        lines = compare(model, shard, feeds[:REPORT_BATCHES])
        losses = _measured(params, model, shard, suite, list(range(_blocks_count(params))), report, ops)
        _check_even(losses)
    return {
        "shard_path": str(path), "losses": [losses[block] for block in range(_blocks_count(params))],
        "digests": [digest.hex() for digest in shard.digests()], "params": shard.params_digest().hex(),
        "tail": shard.chain()[-1].hex(), "head": shard.info.head, "modality": shard.info.modality,
        "name": shard.info.name, "licence": shard.info.licence, "params_count": shard.info.params_count,
        "layers": [line["name"] for line in lines if line["coded"]], "report": _told(lines), "ops": ops,
        "cpu_ms": _cpu_ms() - began_ms,
    }  # fmt: skip


def measure(params: Params, report: Report) -> dict[str, Any]:
    """Losses of blocks of a published shard: ``losses [[block, nano]] params cpu_ms``."""
    from spore_borg.learn.measure import check_ops
    from spore_borg.learn.shard import open_shard
    from spore_borg.learn.suite import open_suite

    began_ms, blocks = _cpu_ms(), _blocks(params)
    model, shard = model_of(params), open_shard(_path(params, "shard_path"))
    ops = get(params, "ops", int)
    with open_suite(_path(params, "suite_path")) as suite:
        check_ops(model, suite, ops)
        losses = _measured(params, model, shard, suite, blocks, report, ops)
    return {
        "losses": [[block, losses[block]] for block in blocks], "params": shard.params_digest().hex(),
        "cpu_ms": _cpu_ms() - began_ms,
    }  # fmt: skip


def redo(params: Params, report: Report) -> dict[str, Any]:
    """Convert one layer group again: hex digests ``start inner end``, and ``cpu_ms``."""
    from spore_borg.learn.shard import open_shard
    from spore_borg.learn.spike import convert as converting

    began_ms, rule, steps = _cpu_ms(), get(params, "rule", str), get(params, "steps", int)
    model, shard = model_of(params), open_shard(_path(params, "shard_path"))
    base = None if params.get("base_path") is None else open_shard(_path(params, "base_path"))
    report("converts again", 0, 0)
    start, inner, end = converting.redo(
        model, (), shard, get(params, "segment", int), get(params, "inner_step", int), rule, steps, base,
        _thresholds(params, model, rule, steps, base),
    )  # fmt: skip
    return {"start": start.hex(), "inner": inner.hex(), "end": end.hex(), "cpu_ms": _cpu_ms() - began_ms}


def _thresholds(
    params: Params, model: Model, rule: str, steps: int, base: Shard | None
) -> Mapping[str, Threshold]:
    """The thresholds of the whole model: a verifier that redoes several groups in a row calibrates once."""
    from spore_borg.learn.spike import convert as converting
    from spore_borg.learn.suite import open_suite

    named = [*sorted(pairs(params, "files")), ("suite", _path(params, "suite_path"))]
    if base is not None:
        named.append(("base", _path(params, "base_path")))
    # by content: paths are those of this one request
    told = get(params, "ops", int), rule, steps, json.dumps(params.get("merge"))
    key = told, tuple((name, _sha256(path)) for name, path in named)
    if _last.get("key") != key:
        _last.clear()
        with open_suite(_path(params, "suite_path")) as suite:
            feeds = _feeds(model, suite.calibration(model.info.modality))
            with _bounded(get(params, "ops", int), feeds):
                found = converting.thresholds_again(model, feeds, rule, steps, base)
        _last.update(key=key, thresholds=found)
    thresholds: Mapping[str, Threshold] = _last["thresholds"]
    return thresholds


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unless_here(op: Op) -> Op:
    """An operation whose trouble with this machine's files (a full disk, say) is no word about an author's.

    What cannot be used is a LearnError; an OSError would count as that and accuse the author.
    """

    def asked(params: Params, report: Report) -> dict[str, Any]:
        try:
            return op(params, report)
        except OSError as error:
            raise RuntimeError(f"This machine could not read or write a file: {error}") from error

    return asked


OPS: dict[str, Op] = {"absorb": absorb, "measure": _unless_here(measure), "redo": _unless_here(redo)}


def _feeds(model: Model, items: Sequence[Item]) -> list[dict[str, Any]]:
    from spore_borg.learn.calibrating import calibration_feeds

    return calibration_feeds(model, items)


def _told(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a conversion: its layers, and over all of them the part of values that spike."""
    values = active = spikes = 0.0
    for line in lines:
        if line["spikes_per_value"] > 0:
            count = line["spikes"] / line["spikes_per_value"]
            values, active, spikes = values + count, active + count * line["active"], spikes + line["spikes"]
    return {
        "layers": lines, "active": active / values if values else 0.0,
        "spikes_per_value": spikes / values if values else 0.0,
        "synops": sum(line["synops"] for line in lines), "macs": sum(line["macs"] for line in lines),
        "dense": sum(not line["coded"] for line in lines),
    }  # fmt: skip


def _counted(params: Params, model: Model, suite: Suite) -> int:
    """Operations of the source for one item. Raises CostError for more than the mesh takes."""
    from spore_borg.learn.cost import CostError
    from spore_borg.learn.measure import item_ops

    most = params.get("ops_max")
    try:
        return item_ops(model, suite, most)
    except CostError as error:
        raise CostError(
            f"{model.info.name} is too slow for this mesh: it needs more than {most} operations an item, and no more "
            "are taken. Choose a smaller model, or one for shorter inputs."
        ) from error


def _bounded(ops: int, feeds: Sequence[Mapping[str, Tensor]]) -> AbstractContextManager[object]:
    """Within it, calibration may need so many operations: far more than any honest conversion does."""
    from spore_borg.learn.adapters.base import BATCH
    from spore_borg.learn.cost import metered
    from spore_borg.learn.measure import GUARD

    return metered(ops * GUARD * PASSES * BATCH * len(feeds))


def _check_even(losses: Mapping[int, int]) -> None:
    """Raise CostError for a model that some items cost far more than others: nobody could bound what it costs."""
    from spore_borg.learn.cost import CostError
    from spore_borg.learn.measure import GUARD, OVERRUN

    if OVERRUN in losses.values():
        raise CostError(
            f"Some items cost this model more than {GUARD} times what others do, so nobody can say beforehand what it "
            "costs to verify; it is not offered to the mesh."
        )


def _measured(
    params: Params, model: Model, shard: Shard, suite: Suite, blocks: Sequence[int], report: Report, ops: int
) -> dict[int, int]:
    """The wanted losses by block, against the state that the request names."""
    from spore_borg.learn.measure import measure as losses_of
    from spore_borg.learn.shard import open_shard

    cache = None if params.get("cache_dir") is None else _path(params, "cache_dir")
    base = None
    if params.get("base_path") is not None:
        base = get(params, "base_cid", str), open_shard(_path(params, "base_path"))
    members = [(cid, open_shard(path)) for cid, path in pairs(params, "state")]
    replaced = get(params, "replaced", list, [])
    found = losses_of(
        model, shard, suite, members, blocks=blocks, base=base, replaced=replaced, ops=ops, cache_dir=cache,
        each=lambda stage, number, count: report(f"measures {stage} of", number, count),
    )  # fmt: skip
    return dict(zip(blocks, found, strict=True))


def _path(params: Params, name: str) -> Path:
    return Path(get(params, name, str))


def _segments(params: Params) -> int:
    return int(get(get(params, "task", dict), "segments", int))


def _blocks_count(params: Params) -> int:
    return int(get(get(params, "task", dict), "blocks", int))


def _blocks(params: Params) -> list[int]:
    blocks = get(params, "blocks", list)
    most = _blocks_count(params)
    if not all(type(block) is int and 0 <= block < most for block in blocks):
        raise OpError(f"blocks are numbers from 0 to {most - 1}")
    return list(blocks)


def _cpu_ms() -> int:
    return time.process_time_ns() // 1_000_000
