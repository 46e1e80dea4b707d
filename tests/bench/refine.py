"""What refinement gains: fidelity before and after, the gate's word on it, and what it costs.

    python -m tests.bench.refine MODEL:STEPS…        (for example textgenrnn:4 silero-vad:5)

Models are those of ``borg bench absorb`` and come from its cache; all 16 fidelity blocks are
compared, where a mesh of two compares eight. Below a model's line the losses of its blocks, in
thousandths of 1 - cosine: before, after.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from spore_borg.learn import measure
from spore_borg.learn.adapters.base import Feeds
from spore_borg.learn.calibrating import calibration_feeds
from spore_borg.learn.importers import import_model
from spore_borg.learn.shard import Shard
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.refine import refine
from spore_borg.learn.spike.run import run_spiking
from spore_borg.learn.suite import Suite, open_suite
from spore_borg.views import gate
from tests.bench import _conversions

CACHE = Path.home() / ".cache" / "spore-borg" / "bench"
BLOCKS = range(gate.UNITS)


def compared(source: str, steps: int, suite: Suite, folder: Path) -> str:
    """Fidelity of the shard and of the refined one, the gate's word, spikes, CPU seconds; and the losses by block."""
    found = _conversions.fetched(source, CACHE)
    model = import_model(dict(found.files), origin=source, licence=found.licence, name=found.name)
    feeds = calibration_feeds(model, suite.calibration(model.info.modality))
    base = convert(model, feeds, steps=steps, segments=gate.SEGMENTS, out=folder / "base")
    began_s = time.process_time()
    better = refine(model, feeds, base, folder / "better")
    cost_s = time.process_time() - began_s
    before, after = (
        measure.measure(model, one, suite, [], blocks=BLOCKS)[: gate.UNITS] for one in (base, better)
    )
    items = gate.UNITS * len(suite.fidelity(model.info.modality, 0))
    said = gate.weigh_fidelity(before, after, BLOCKS)
    told = [f"{1 - sum(losses) / items / 1e9:.5f}" for losses in (before, after)]
    fresh = sum(name.startswith("f:") for name in set(better.specs) - set(base.specs))
    more = spikes(better, feeds[0]) / spikes(base, feeds[0])
    t = t_value(before, after)
    return "\n".join(
        (
            f"{found.name} T={steps}: {told[0]} → {told[1]}, {said.word}, t = {t:.1f}; "
            f"{fresh} second bases, {more:.2f} times the spikes; {cost_s:.1f} CPU-s",
            *("  " + " ".join(f"{loss / 1e6:.1f}" for loss in losses) for losses in (before, after)),
        )
    )


def spikes(shard: Shard, feeds: Feeds) -> float:
    """Spikes of one batch."""
    count = Count()
    run_spiking(shard, feeds, count=count)
    return count.total().spikes


def t_value(before: Sequence[int], after: Sequence[int]) -> float:
    """Student's t of the paired differences; 0 where nothing differs."""
    differences = [a - b for a, b in zip(before, after, strict=True)]
    spread = statistics.stdev(differences)
    return statistics.fmean(differences) / spread * len(differences) ** 0.5 if spread else 0.0


def main(wanted: list[str]) -> None:
    """Compare each MODEL:STEPS."""
    torch.set_num_threads(1)
    with open_suite(_conversions.suite_path(CACHE)) as suite:
        for text in wanted:
            name, _, steps = text.rpartition(":")
            with tempfile.TemporaryDirectory() as folder:
                print(compared(f"pypi:{name}", int(steps), suite, Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
