"""Running shards: ``python -m tests.bench.infer [--repeats 7] [--calls 200] [--models NAME,…] [--layers no]``.

First whole models, see ``_infer_models``: CPU time of the simulation and of the engine against the dense source, with
one item and with 32. Then single layers.

One product of 1,536 inputs with 1,536 outputs, batch 1, one thread, in four forms in turn in one process: torch fp32,
torch int8 (dynamic quantisation), ours driven by events, ours dense. At 10 % and 50 % active inputs (few-spike code,
5 steps, a threshold per channel; at 10 % also one threshold for the layer), and with 95 % of the weights zero. CPU time
of ``--calls`` calls, ``--repeats`` times; codes are made beforehand, as the layer before hands them over. Beside each
ratio of time stands the number of additions per multiply-add that it replaces (SynOps/MAC): a few-spike code costs at
least one addition for each active input, so the gain is in the weights that are not read, not in fewer operations.

Also one transformer block of 384 channels as spikes, simulated layer by layer, against the same block in fp32.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import platformdirs
import torch

from spore_borg.learn.run import run
from spore_borg.learn.spike.codes import FEW_SPIKE, Code
from spore_borg.learn.spike.convert import convert
from spore_borg.learn.spike.counts import Count
from spore_borg.learn.spike.events import EventLayer
from spore_borg.learn.spike.run import run_spiking
from tests.bench import _infer_models
from tests.bench._rows import emit
from tests.learn.test_convert import attention_model

SIZE = 1_536
STEPS = 5
CASES = {
    "10": (0.1, 0.0),
    "10_one": (0.1, 0.0),
    "50": (0.5, 0.0),
    "csr": (0.5, 0.95),
}  # active inputs, zero weights


def int8_form(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch's dynamically quantised linear layer."""
    linear = torch.nn.Linear(SIZE, SIZE, bias=False)
    linear.weight.data.copy_(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor of this interface
        return torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(linear), {torch.nn.Linear})


def times(forms: dict[str, Callable[[], object]], calls: int, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of ``calls`` calls of every form, in turn, after a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(repeats + 1):
        for name, form in forms.items():
            began = time.process_time()
            for _ in range(calls):
                form()
            if repeat:
                found[name].append(time.process_time() - began)
    return found


def layer(
    active: float, zeros: float, channels: bool, calls: int, repeats: int
) -> tuple[dict[str, list[float]], float]:
    """CPU seconds of every form, and additions per multiply-add of the event-driven one."""
    g = torch.Generator().manual_seed(1)
    q = torch.randint(-127, 128, (SIZE, SIZE), generator=g).to(torch.int8)
    q[torch.rand(q.shape, generator=g) < zeros] = 0
    code = Code(FEW_SPIKE, STEPS)
    thresholds = torch.rand(SIZE if channels else 1, generator=g) + 0.5
    ours = EventLayer(q, torch.full((SIZE,), 0.01), thresholds, levels=code.levels)
    x = torch.randn(1, SIZE, generator=g) * 6 * ours.s
    x[torch.rand(x.shape, generator=g) >= active] = 0
    k = ours.code(x)
    dense_weight = q.float() * 0.01
    quantised = int8_form(dense_weight)
    assert torch.equal(ours.events(k), ours.dense(k))
    with torch.inference_mode():
        found = times(
            {
                "fp32": lambda: torch.nn.functional.linear(x, dense_weight),
                "int8": lambda: quantised(x),
                "events": lambda: ours.output(ours.sparse(k) if zeros else ours.events(k)),
                "dense": lambda: ours.output(ours.dense(k)),
            },
            calls,
            repeats,
        )
    additions = float((code.spikes(k.float()) @ (q != 0).t().float()).sum()) / (SIZE * SIZE)
    return found, additions


def block(repeats: int) -> tuple[list[float], float]:
    """Ratios of CPU time, spiking to fp32, of one transformer block; additions per multiply-add."""
    model, _ = attention_model(d=384, heads=12)
    feeds = {"ids": torch.randint(0, 50, (4, 64), generator=torch.Generator().manual_seed(2))}
    with tempfile.TemporaryDirectory() as folder:
        shard = convert(model, [feeds], steps=STEPS, out=Path(folder) / "block.shard")
        weights = shard.weights()
        found = times(
            {
                "dense": lambda: run(model.graph, weights, feeds),
                "spiking": lambda: run_spiking(shard, feeds),
            },
            3,
            repeats,
        )
        count = Count()
        run_spiking(shard, feeds, count=count)
    total = count.total()
    ratios = [a / b for a, b in zip(found["spiking"], found["dense"], strict=True)]
    return ratios, total.synops / total.macs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--models", default=",".join(_infer_models.MODELS))
    parser.add_argument("--layers", choices=("yes", "no"), default="yes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    models([name for name in given.models.split(",") if name], given.repeats)
    if given.layers == "yes":
        layers(given.repeats, given.calls)


def models(names: list[str], repeats: int) -> None:
    """The rows of whole models. Raises KeyError for one that is not known."""
    cache = platformdirs.user_cache_path("spore-borg") / "bench"
    for name in names:
        try:
            found = _infer_models.measured(name, cache, repeats)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name}: not measured: {error}", file=sys.stderr, flush=True)
            continue
        for count in _infer_models.BATCHES:
            cpu_s = found["batches"][str(count)]["cpu_s"]
            for form in ("simulation", "engine"):
                ratios = [a / b for a, b in zip(cpu_s[form], cpu_s["source"], strict=True)]
                emit(f"infer_{name}_{count}_{form}", ratios, _infer_models.note(found, count))


def layers(repeats: int, calls: int) -> None:
    """The rows of single layers."""
    for name, (active, zeros) in CASES.items():
        found, additions = layer(active, zeros, name != "10_one", calls, repeats)
        note = f"{additions:.2f} additions per multiply-add of the dense product"
        for form in ("events", "dense"):
            ratios = [a / b for a, b in zip(found["fp32"], found[form], strict=True)]
            if form == "events" or name == "50":
                emit(f"infer_{form}_{name}", ratios, note)
        emit(
            f"infer_events_{name}_int8",
            [a / b for a, b in zip(found["int8"], found["events"], strict=True)],
            note,
        )
        if name == "50":
            emit("infer_int8", [a / b for a, b in zip(found["fp32"], found["int8"], strict=True)])
    ratios, additions = block(repeats)
    emit(
        "infer_block",
        ratios,
        f"{additions:.2f} additions per multiply-add; {STEPS} steps, all operators as spikes",
    )


if __name__ == "__main__":
    main()
