"""What refinement gains: fidelity before and after, the gate's word on it, and what it costs.

    python -m tests.bench.refine MODEL:STEPS…        (for example textgenrnn:4 silero-vad:5)

Models are those of ``borg bench absorb`` and come from its cache; all 16 fidelity blocks are
compared, where a mesh of two compares some four.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from spore_borg.learn import measure
from spore_borg.learn.calibrating import calibration_feeds
from spore_borg.learn.importers import import_model
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.refine import refine
from spore_borg.learn.suite import Suite, open_suite
from spore_borg.views import gate
from tests.bench import _conversions

CACHE = Path.home() / ".cache" / "spore-borg" / "bench"
BLOCKS = range(gate.UNITS)


def compared(source: str, steps: int, suite: Suite, folder: Path) -> str:
    """One line: fidelity of the shard and of the refined one, the gate's word, CPU seconds."""
    found = _conversions.fetched(source, CACHE)
    model = import_model(dict(found.files), origin=source, licence=found.licence, name=found.name)
    feeds = calibration_feeds(model, suite.calibration(model.info.modality))
    base = convert(model, feeds, steps=steps, segments=gate.SEGMENTS, out=folder / "base")
    began_s = time.process_time()
    better = refine(model, feeds, base, folder / "better")
    cost_s = time.process_time() - began_s
    before, after = (measure.measure(model, one, suite, [], blocks=BLOCKS) for one in (base, better))
    items = gate.UNITS * len(suite.fidelity(model.info.modality, 0))
    said = gate.weigh_fidelity(before, after, BLOCKS)
    told = [f"{1 - sum(losses) / items / 1e9:.5f}" for losses in (before, after)]
    return f"{found.name} T={steps}: {told[0]} → {told[1]}, {said.word}; {cost_s:.1f} CPU-s"


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
