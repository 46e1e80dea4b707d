"""Merging 8 models of 25 M parameters: ``python -m tests.bench.merge [--parts 8] [--million 25] [--repeats 3]``.

Ours against plain torch (in-place fp32 mean), crdt-merge and mergekit, each in a process of its own on the same
safetensors files, one thread, from file to file: CPU seconds less those of the imports, and the growth of peak memory.
The repetitions go in turn, and a ratio is of two neighbours. Like with like: means (``mean/1``, torch, crdt-merge's
``weight_average`` alone and behind its ``CRDTMergeState``, which alone is free of order as ours is, mergekit's
``linear``), and rules that look at each coordinate's values (``trimmed/1``, mergekit's ``ties``). Weights are incomes
as the gate gives them. How far a mean is from that in float64 is told beside.

mergekit is looked for in this interpreter, in ``.venv-mergekit`` and where ``SPORE_BORG_BENCH_MERGEKIT`` says;
the report says how to install it otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench._rows import emit, missing

ROOT = Path(__file__).resolve().parents[2]
TENSORS = 10
COLUMNS = 1_000
RUN_LIMIT_S = 200
BUDGET_S = 400  # no repetition begins that would end later, were it as long as the longest before
WEIGHTS = (1_536, 4_096, 640, 2_304, 128, 1_920, 3_072, 8_192)
TIES_DENSITY = 0.5
MERGEKIT = "mergekit.scripts.merge_raw_pytorch"  # its program for weights without a configuration
INSTALL = "python -m venv .venv-mergekit && .venv-mergekit/bin/pip install torch=={torch} mergekit"


def make(folder: Path, parts: int, million: int) -> None:
    """A base and ``parts`` models of one lineage: ten matrices each."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    rows = million * 1_000_000 // TENSORS // COLUMNS
    base = {
        f"layer{k}.weight": torch.randn(rows, COLUMNS, generator=generator) * 0.02 for k in range(TENSORS)
    }
    save_file(base, folder / "base.safetensors")
    for i in range(parts):
        moved = {
            name: w + torch.randn(w.shape, generator=generator) * 0.002 * (i + 1) for name, w in base.items()
        }
        save_file(moved, folder / f"{i}.safetensors")


def _copy(paths: list[Path], weights: list[int], out: Path) -> None:
    """What no merge can do without: every file is read once, in pieces, and one is written."""
    piece = bytearray(1 << 20)
    with out.open("wb") as file:
        for path in paths:
            with path.open("rb", buffering=0) as source:
                while count := source.readinto(piece):
                    if path is paths[0]:
                        file.write(memoryview(piece)[:count])
        os.fsync(file.fileno())


def _plain(paths: list[Path], weights: list[int], out: Path) -> None:
    from safetensors.torch import load_file, save_file

    total = sum(weights)
    merged = {name: tensor.mul_(weights[0] / total) for name, tensor in load_file(paths[0]).items()}
    for path, weight in zip(paths[1:], weights[1:], strict=True):
        for name, tensor in load_file(path).items():
            merged[name].add_(tensor, alpha=weight / total)
    save_file(merged, out)


def _crdt(paths: list[Path], weights: list[int], out: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from spore_borg.learn.crdt import weight_average

    models = [load_file(path) for path in paths]
    scale = [float(weight) for weight in weights]
    merged = {
        name: weight_average([model[name] for model in models], scale).astype(np.float32)
        for name in models[0]
    }
    save_file(merged, out)


def _crdt_state(paths: list[Path], weights: list[int], out: Path) -> None:
    """As crdt-merge promises the same result in any order: a state for each tensor, resolved once."""
    import numpy as np
    from crdt_merge.model.crdt_state import CRDTMergeState
    from safetensors.numpy import load_file, save_file

    models = [load_file(path) for path in paths]
    merged = {}
    for name in models[0]:
        state = CRDTMergeState("weight_average", seed=1)
        for path, model, weight in zip(paths, models, weights, strict=True):
            state.add(model[name], model_id=path.stem, weight=float(weight))
        merged[name] = state.resolve().astype(np.float32)
    save_file(merged, out)


def _ours(rule: str) -> Callable[[list[Path], list[int], Path], None]:
    def run(paths: list[Path], weights: list[int], out: Path) -> None:
        from spore_borg.learn import merging

        base = paths[0].with_name("base.safetensors") if rule == merging.TRIMMED else None
        parts = [merging.Part(path, weight) for path, weight in zip(paths, weights, strict=True)]
        merging.merge(parts, out, base=base, rule=rule)

    return run


def _mergekit(method: str) -> Callable[[list[Path], list[int], Path], None]:
    """Runs in mergekit's environment, as its program ``mergekit-pytorch`` does, with its defaults."""

    def run(paths: list[Path], weights: list[int], out: Path) -> None:
        from mergekit.graph import Executor
        from mergekit.options import MergeOptions

        raw = importlib.import_module(MERGEKIT)
        extra = {"density": TIES_DENSITY} if method == "ties" else {}
        models = [
            {"model": str(path), "parameters": {"weight": weight, **extra}}
            for path, weight in zip(paths, weights, strict=True)
        ]
        said = {"merge_method": method, "dtype": "float32", "models": models}
        if method == "ties":
            said["base_model"] = str(paths[0].with_name("base.safetensors"))
        folder = out.with_suffix("")
        config = raw.RawPyTorchMergeConfig.model_validate(said)
        tasks = raw.plan_flat_merge(config, str(folder), False, False, MergeOptions())
        Executor(tasks, math_device="cpu", storage_device="cpu").execute()
        (folder / "model.safetensors").replace(out)

    return run


KINDS = {
    "copy": _copy, "torch": _plain, "mean": _ours("mean/1"), "trimmed": _ours("trimmed/1"),
    "crdt": _crdt, "crdt_state": _crdt_state, "linear": _mergekit("linear"), "ties": _mergekit("ties"),
}  # fmt: skip
GROUPS = (("copy", "torch", "mean", "crdt", "crdt_state", "linear"), ("trimmed", "ties"))  # what runs in turn
MEANS = ("torch", "mean", "crdt", "crdt_state", "linear")
THEIRS = ("linear", "ties")  # of mergekit
IMPORTS = {
    "copy": "safetensors", "torch": "safetensors.torch",
    "mean": "spore_borg.learn.merging", "trimmed": "spore_borg.learn.merging",
    "crdt": "spore_borg.learn.crdt", "crdt_state": "spore_borg.learn.crdt", "linear": MERGEKIT, "ties": MERGEKIT,
}  # fmt: skip


def _memory_mb(field: str) -> float:
    """VmRSS or VmHWM of this process; without Linux the peak since its beginning."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def one(kind: str, folder: Path, parts: int) -> None:
    """Merge once in this process; prints CPU seconds, and the growth of peak memory in MB."""
    import torch

    torch.set_num_threads(1)
    importlib.import_module(IMPORTS[kind])
    paths = [folder / f"{i}.safetensors" for i in range(parts)]
    weights = [WEIGHTS[i % len(WEIGHTS)] for i in range(parts)]
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports is forgotten
    except OSError:
        pass  # then growth below that peak is not seen
    memory, began_s = _memory_mb("VmRSS"), time.process_time()
    KINDS[kind](paths, weights, folder / f"{kind}.merged.safetensors")
    spent_s = time.process_time() - began_s
    print(json.dumps([spent_s, max(0.0, _memory_mb("VmHWM") - memory)]))


def mergekit() -> str | None:
    """The interpreter that has mergekit, or None."""
    home = ROOT / ".venv-mergekit" / "bin" / "python"
    for python in (os.environ.get("SPORE_BORG_BENCH_MERGEKIT", ""), str(home), sys.executable):
        if python and Path(python).is_file():
            done = subprocess.run([python, "-c", f"import {MERGEKIT}"], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    return None


def run(kind: str, python: str, folder: Path, parts: int) -> list[float] | None:
    """[CPU seconds, MB] of one merge in a process of its own; None where it does not run, and says why."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = ["--one", kind, "--folder", str(folder), "--parts", str(parts)]
    try:
        done = subprocess.run(
            [python, "-m", "tests.bench.merge", *words], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=RUN_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        missing(f"merge: {kind} was not done within {RUN_LIMIT_S} s")
        return None
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        missing(f"merge: {kind} does not run: {last[:300]}")
        return None
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def apart(folder: Path, kind: str, parts: int) -> float:
    """How far one matrix of a mean is from the mean in float64, at most, in units of 10^-9."""
    import torch
    from safetensors import safe_open

    def load(path: Path) -> torch.Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("layer0.weight").double()

    weights = [WEIGHTS[i % len(WEIGHTS)] for i in range(parts)]
    exact = sum(load(folder / f"{i}.safetensors") * weight for i, weight in enumerate(weights)) / sum(weights)
    return 1e9 * float((load(folder / f"{kind}.merged.safetensors") - exact).abs().max())


def tell(runs: dict[str, list[list[float]]]) -> None:
    """A row for each number: CPU seconds, ratios of neighbours, growth of memory."""
    for kind in ("copy", "mean", "trimmed"):
        if runs[kind]:
            emit(f"merge_{kind}_cpu", [cpu for cpu, _ in runs[kind]])
    for kind, found in runs.items():
        if found and kind != "copy":
            emit(f"merge_{kind}_memory", [memory for _, memory in found])
    for over, under in (
        ("mean", "torch"), ("crdt", "mean"), ("crdt_state", "mean"), ("linear", "mean"),
        ("trimmed", "torch"), ("ties", "trimmed"),
    ):  # fmt: skip
        pairs = list(zip(runs[over], runs[under], strict=False))
        if pairs:
            emit(f"merge_{over}_over_{under}", [a[0] / b[0] for a, b in pairs])


def in_turn(
    kinds: list[str], runs: dict[str, list[list[float]]], python: str, folder: Path, given: argparse.Namespace,
    began_s: float,
) -> None:  # fmt: skip
    """Repeat a group of merges; ``runs`` is filled. ``python`` is mergekit's interpreter."""
    longest_s = 0.0
    for repeat in range(given.repeats):
        turn_s = time.monotonic()
        if repeat and turn_s - began_s + longest_s > BUDGET_S:
            missing(f"merge: {', '.join(kinds)}: {repeat} of {given.repeats} repetitions, for want of time")
            return
        for kind in list(kinds):
            found = run(kind, python if kind in THEIRS else sys.executable, folder, given.parts)
            if found is None:
                kinds.remove(kind)
            else:
                runs[kind].append(found)
                if kind in MEANS and not repeat:
                    emit(f"merge_{kind}_apart", [apart(folder, kind, given.parts)])
            (folder / f"{kind}.merged.safetensors").unlink(missing_ok=True)
        longest_s = max(longest_s, time.monotonic() - turn_s)


def main() -> None:
    """Print a measurement a row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--million", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", choices=sorted(KINDS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--no-mergekit", action="store_true")
    given = parser.parse_args()
    if given.one:
        one(given.one, given.folder, given.parts)
        return
    python = None if given.no_mergekit else mergekit()
    if python is None:
        import torch

        missing(
            f"merge: mergekit is not installed: {INSTALL.format(torch=torch.__version__.partition('+')[0])}"
        )
    runs: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spore-borg-merge-") as name:
        folder = Path(name)
        make(folder, given.parts, given.million)
        for group in GROUPS:
            kinds = [kind for kind in group if kind not in THEIRS or python is not None]
            in_turn(kinds, runs, python or "", folder, given, began_s)
    tell(runs)


if __name__ == "__main__":
    main()
