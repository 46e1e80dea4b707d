"""What a claim commits to: 240 whole-number losses of a shard, on the probe suite and against its dense source.

Every block is computed by itself from items of its own, so recomputing some blocks gives the same numbers as all of
them; features of fit items and of the state's members are kept in ``cache_dir``.
Contract: docs/internals/absorption.md, "Suite and blocks".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spore_borg.learn import baseline, readout
from spore_borg.learn.adapters import Adapter, adapter
from spore_borg.learn.cost import CostError, metered
from spore_borg.learn.errors import SuiteError
from spore_borg.learn.graph import Model
from spore_borg.learn.readout import NANO, Stacked
from spore_borg.learn.run import Allowance, KeptWeights, run
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.run import Runner
from spore_borg.learn.suite import BLOCKS, PROBES_MAX, Item, Probe, Suite
from spore_borg.records.merkle import LOSS_MAX

LOSSES = BLOCKS * (1 + 2 * PROBES_MAX)
RULE = b"measure/1"  # part of every cache key: another way of measuring is another cache
GUARD = 16  # times the declared operations of one item that anything of a claim may need at most
COST_SHARE = 8  # the declared operations are those that are counted, up to an eighth
OVERRUN = (
    LOSS_MAX  # loss of a block that needs more: no honest claim has it, and whoever recomputes it finds it
)
KEEP_BYTES_MAX = 1 << 30  # weights of all models up to this size stay in memory between blocks

Member = tuple[str, Shard]
Fixed = NDArray[np.int32]
Each = Callable[[str, int, int], None]


class Runs:
    """A model or a shard that turns items into vectors and features.

    Args:
        ops: operations that an item may need at most; None is any number.
    """

    def __init__(
        self, what: Model | Shard, allowance: Allowance | None = None, ops: int | None = None
    ) -> None:
        self.modality, self._ops = what.info.modality, ops
        allowance = allowance or Allowance(KEEP_BYTES_MAX)
        assets = what.model().assets if isinstance(what, Shard) else what.assets
        self._adapter: Adapter = adapter(what.adapter, assets)
        self._run: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
        if isinstance(what, Shard):
            self._run = Runner(what, allowance)
        else:
            kept = KeptWeights(what.weights, allowance)
            self._run = lambda feeds: run(what.graph, kept, feeds)

    def vectors(self, items: Sequence[Item]) -> torch.Tensor:
        """float32 [n, d]: what fidelity compares. Raises CostError."""
        with self._metered(items):
            rows = [self._adapter.vectors(self._run(feeds), feeds) for _, feeds in self._adapter.feeds(items)]
        return torch.cat(rows)

    def features(self, items: Sequence[Item]) -> Fixed:
        """int32 [n, f]: what the readout sees, in fixed point. Raises CostError."""
        with self._metered(items):
            rows = [
                self._adapter.features(self._run(feeds), feeds) for _, feeds in self._adapter.feeds(items)
            ]
        return readout.quantise(torch.cat(rows))

    def _metered(self, items: Sequence[Item]) -> AbstractContextManager[object]:
        return nullcontext() if self._ops is None else metered(self._ops * len(items))


def item_ops(model: Model, suite: Suite, most: int | None = None) -> int:
    """Operations of the source for one item: the mean over the items of all fidelity blocks, rounded down.

    Args:
        most: operations of an item above which it is not counted to the end.
    Raises:
        CostError: more than ``most``.
    """
    items = [suite.fidelity(model.info.modality, block) for block in range(BLOCKS)]
    count, runs = sum(map(len, items)), Runs(model)
    with metered(None if most is None else (most + 1) * count - 1) as meter:
        for part in items:
            runs.vectors(part)
    return max(1, meter.used // count)


def check_ops(model: Model, suite: Suite, declared: int) -> None:
    """Raise CostError if a source needs another number of operations than its claim declares, by more than an eighth.

    A shape can follow from a float (the places that are not zero), and so differ a little on other hardware.
    """
    slack = declared // COST_SHARE
    found = item_ops(model, suite, declared + slack)
    if found < declared - slack:
        raise CostError(f"It needs {found} operations an item, and its claim declares {declared}.")


def infidelity(dense: torch.Tensor, spiking: torch.Tensor) -> int:
    """Σ over items of nano-(1 − cosine), from 0 to 2 · 10^9 each; two zero vectors agree, NaN never does."""
    a, b = dense.double(), spiking.double()
    total = 0
    for row, other in zip(a, b, strict=True):
        if not bool(torch.isfinite(row).all() and torch.isfinite(other).all()):
            total += 2 * NANO
            continue
        size = float(row.norm() * other.norm())
        cosine = float(row @ other) / size if size > 0 else float(torch.equal(row, other))
        total += round(NANO * min(max(1.0 - cosine, 0.0), 2.0))
    return total


class Features:
    """Features of one shard on a suite's probes, from the cache or computed."""

    def __init__(
        self, shard: Shard, suite: Suite, cache_dir: Path | None, allowance: Allowance | None = None,
        ops: int | None = None,
    ) -> None:  # fmt: skip
        self._shard, self._ops = shard, ops
        self._allowance = allowance
        self._suite = suite
        self._dir = cache_dir
        self._digest = shard.params_digest() if cache_dir is not None else b""
        self._runs: Runs | None = None
        self._fit: dict[int, Fixed] = {}

    def of(self, probe: Probe, block: int | None) -> Fixed:
        """int32 [n, f] of a test block's items, or of the fit items (None)."""
        if block is None and probe.slot in self._fit:
            return self._fit[probe.slot]
        part = "fit" if block is None else f"test {block}"
        path = self._path(probe, part)
        kept = None if path is None else _load(path)
        if kept is not None:
            if block is None:
                self._fit[probe.slot] = kept
            return kept
        self._runs = self._runs or Runs(self._shard, self._allowance, self._ops)
        items = self._suite.items(probe.slot, "fit") if block is None else self._suite.test(probe.slot, block)
        found = self._runs.features(items)
        if path is not None:
            _save(path, found)
        if block is None:
            self._fit[probe.slot] = found
        return found

    def _path(self, probe: Probe, part: str) -> Path | None:
        if self._dir is None:
            return None
        key = hashlib.sha256(RULE + self._digest + self._suite.digest + f"{probe.slot} {part}".encode())
        return self._dir / f"features-{key.hexdigest()[:40]}.npy"


def _load(path: Path) -> Fixed | None:
    """What the cache holds; None for nothing usable, which is then made again."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.dtype == np.int32 and found.ndim == 2 else None


def _save(path: Path, features: Fixed) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.save(file, features, allow_pickle=False)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sides(
    shard: Shard, members: Iterable[Member], base: Member | None = None, replaced: Collection[str] = ()
) -> tuple[list[Shard], list[Shard]]:
    """The state's shards of this modality before and after.

    Args:
        base: of a refinement, the shard that it refines: before has it, after has the refined one in its place.
        replaced: of a merge, the members whose place it takes: before has them, after does not.
    """
    modality = shard.info.modality
    others = {name: member for name, member in members if member.info.modality == modality}
    before = dict(others)
    if base is not None:
        others.pop(base[0], None)
        before[base[0]] = base[1]
    others = {name: member for name, member in others.items() if name not in replaced}
    return [before[name] for name in sorted(before)], [*(others[name] for name in sorted(others)), shard]


def measure(
    model: Model,
    shard: Shard,
    suite: Suite,
    members: Iterable[Member],
    *,
    blocks: Sequence[int] | None = None,
    base: Member | None = None,
    replaced: Collection[str] = (),
    ops: int | None = None,
    cache_dir: Path | None = None,
    each: Each | None = None,
) -> list[int]:
    """The losses of a claim.

    Args:
        model: the dense source; only the fidelity blocks run it.
        members: the state's shards by id; those of another modality are left aside.
        blocks: which losses are wanted; None is all 240.
        base: of a refinement, the shard that is refined; replaced: of a merge, the members whose place it takes.
        ops: operations of the source for one item, as declared: a block that needs far more gets the loss ``OVERRUN``.
        cache_dir: where features are kept by digest of shard and suite.
        each: told (stage, number, of how many).
    Returns:
        One loss per wanted block, in the order asked; of all 240 without ``blocks``.
    Raises:
        SuiteError: the suite has no probe of this modality, or a block is out of range. LearnError: what cannot run.
    """
    wanted = list(range(LOSSES)) if blocks is None else list(blocks)
    if not all(0 <= block < LOSSES for block in wanted):
        raise SuiteError(f"A claim has the blocks 0 to {LOSSES - 1}.")
    probes = suite.of_modality(shard.info.modality)
    if not probes:
        raise SuiteError(
            f"The suite has no probe for {shard.info.modality}, so this model cannot be measured."
        )
    losses, allowance = dict.fromkeys(wanted, 0), Allowance(KEEP_BYTES_MAX)
    most = None if ops is None else GUARD * ops
    fidelity = [block for block in losses if block < BLOCKS]
    if fidelity:
        dense, spiking = Runs(model, allowance, most), Runs(shard, allowance, most)
        for number, block in enumerate(fidelity):
            if each is not None:
                each("fidelity", number, len(fidelity))
            items = suite.fidelity(shard.info.modality, block)
            with suppress(CostError):
                losses[block] = OVERRUN
                losses[block] = infidelity(dense.vectors(items), spiking.vectors(items))
    before, after = sides(shard, members, base, replaced)
    kept: dict[int, Features] = {}
    for probe in probes:
        first = BLOCKS * (1 + 2 * probe.slot)
        for side, start in ((before, first), (after, first + BLOCKS)):
            asked = [block for block in losses if start <= block < start + BLOCKS]
            if not asked:
                continue
            if each is not None:
                each(probe.name, int(start != first), 2)
            sources = [
                kept.setdefault(
                    id(one), Features(one, suite, cache_dir, allowance, most if one is shard else None)
                )
                for one in side
            ]
            losses.update(dict.fromkeys(asked, OVERRUN))
            with suppress(CostError):
                losses.update(_probe_losses(suite, probe, sources, {block: block - start for block in asked}))
    return [losses[block] for block in wanted]


def distinct(probe: Probe, sources: Sequence[Features]) -> list[Features]:
    """The sources without those that say of every fit item exactly what an earlier one says: a copy counts once."""
    found: list[Features] = []
    for source in sources:
        mine = source.of(probe, None)
        if not any(np.array_equal(mine, other.of(probe, None)) for other in found):
            found.append(source)
    return found


def fitted(suite: Suite, probe: Probe, sources: Sequence[Features]) -> Stacked:
    """The readout of a probe over the baseline and some shards."""
    rows = baseline.members(suite.items(probe.slot, "fit"), probe.modality)
    rows += [source.of(probe, None) for source in sources]
    return readout.stack(rows, suite.labels(probe.slot, "fit"), len(probe.classes))


def says(
    suite: Suite, probe: Probe, sources: Sequence[Features], fit: Stacked, block: int
) -> NDArray[np.float64]:
    """What a fitted readout says of one test block: float64 [n, c]."""
    rows = baseline.members(suite.test(probe.slot, block), probe.modality)
    return fit.predict([*rows, *(source.of(probe, block) for source in sources)])


def _probe_losses(
    suite: Suite, probe: Probe, sources: Sequence[Features], places: Mapping[int, int]
) -> dict[int, int]:
    """Losses by block: ``places`` says which test block each is."""
    sources = distinct(probe, sources)
    fit = fitted(suite, probe, sources)
    labels = suite.labels(probe.slot, "test")
    size = probe.counts["test"] // BLOCKS
    found = {}
    for block, place in places.items():
        mine = labels[place * size : (place + 1) * size]
        found[block] = int(readout.brier_nano(says(suite, probe, sources, fit, place), mine).sum())
    return found


def metric(losses: Sequence[int], items: int) -> int:
    """Mean nano-(1 − cosine) per item, from all 240 losses (or the first 16)."""
    return sum(losses[:BLOCKS]) // max(items, 1)


def gains(losses: Sequence[int], suite: Suite) -> list[dict[str, Any]]:
    """Of each measured probe, the mean error per item before and after: ``{probe, before, after}``, nano."""
    found = []
    for probe in suite.probes:
        first = BLOCKS * (1 + 2 * probe.slot)
        before, after = sum(losses[first : first + BLOCKS]), sum(losses[first + BLOCKS : first + 2 * BLOCKS])
        if before or after:
            count = probe.counts["test"]
            found.append({"probe": probe.name, "before": before // count, "after": after // count})
    return found


def report(model: Model, shard: Shard, suite: Suite, *, cache_dir: Path | None = None) -> dict[str, Any]:
    """How like its source a shard is from end to end, and what each is worth to a readout of its own.

    Returns:
        ``items cosine pearson spearman top1`` over the fidelity items (``top1``: the share of items whose largest
        component is the same) and ``probes``: ``{probe, dense, spiking, chance}``, accuracies of a readout of the
        dense source's or the shard's features alone on the test items.
    """
    items = [item for block in range(BLOCKS) for item in suite.fidelity(shard.info.modality, block)]
    dense_runs, spiking_runs = Runs(model), Runs(shard)
    dense, spiking = dense_runs.vectors(items).double(), spiking_runs.vectors(items).double()
    found: dict[str, Any] = {
        "items": len(items),
        "cosine": 1.0 - infidelity(dense, spiking) / NANO / len(items),
        "pearson": _cosine(_centred(dense), _centred(spiking)),
        "spearman": _cosine(_centred(_ranks(dense)), _centred(_ranks(spiking))),
        "top1": float((dense.argmax(1) == spiking.argmax(1)).double().mean()),
        "probes": [],
    }
    kept = Features(shard, suite, cache_dir)
    for probe in suite.of_modality(shard.info.modality):
        labels, fit_labels = suite.labels(probe.slot, "test"), suite.labels(probe.slot, "fit")
        tests = [suite.test(probe.slot, block) for block in range(BLOCKS)]
        rows = {
            "dense": (
                dense_runs.features(suite.items(probe.slot, "fit")),
                np.concatenate([dense_runs.features(test) for test in tests]),
            ),
            "spiking": (
                kept.of(probe, None),
                np.concatenate([kept.of(probe, block) for block in range(BLOCKS)]),
            ),
        }
        line: dict[str, Any] = {"probe": probe.name, "chance": float(np.bincount(labels).max() / len(labels))}
        for name, (fit, test) in rows.items():
            guess = readout.stack([fit], fit_labels, len(probe.classes)).predict([test]).argmax(1)
            line[name] = float((guess == labels).mean())
        found["probes"].append(line)
    return found


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else float(torch.equal(a, b))


def _centred(x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(dim=1, keepdim=True)


def _ranks(x: torch.Tensor) -> torch.Tensor:
    """Ranks within each row, float64."""
    return x.argsort(dim=1, stable=True).argsort(dim=1, stable=True).double()
