"""Merging 8 models of 25 M parameters: ``python -m tests.bench.merge [--parts 8] [--million 25] [--repeats 3]``.

Ours against plain torch (in-place fp32 mean), crdt-merge's ``weight_average`` and mergekit's TIES, each in a process of
its own on the same files: CPU seconds of the whole process less those of its imports, and the growth of its peak
memory. The mean is compared with means; the trimmed mean sorts every coordinate, which no mean does, and stands apart.
mergekit goes into an environment of its own below ``.venv-mergekit``; without it its row is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench._rows import emit

ROOT = Path(__file__).resolve().parents[2]
TENSORS = 10
INSTALL_LIMIT_S = 200
RUN_LIMIT_S = 200
WEIGHTS = (5, 9, 3, 7, 1, 4, 6, 2)


def make(folder: Path, parts: int, million: int) -> None:
    """A base and ``parts`` models of one lineage: ten matrices each."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    rows = million * 1_000_000 // TENSORS // 1_000
    base = {f"layer{k}.weight": torch.randn(rows, 1_000, generator=generator) * 0.02 for k in range(TENSORS)}
    save_file(base, folder / "base.safetensors")
    for i in range(parts):
        moved = {
            name: w + torch.randn(w.shape, generator=generator) * 0.002 * (i + 1) for name, w in base.items()
        }
        save_file(moved, folder / f"{i}.safetensors")


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
    merged = {
        name: weight_average([model[name] for model in models], [float(w) for w in weights]).astype(
            np.float32
        )
        for name in models[0]
    }
    save_file(merged, out)


def _ours(rule: str) -> Callable[[list[Path], list[int], Path], None]:
    def run(paths: list[Path], weights: list[int], out: Path) -> None:
        from spore_borg.learn import merging

        base = paths[0].with_name("base.safetensors") if rule == merging.TRIMMED else None
        parts = [merging.Part(path, weight) for path, weight in zip(paths, weights, strict=True)]
        merging.merge(parts, out, base=base, rule=rule)

    return run


def _ties(paths: list[Path], weights: list[int], out: Path) -> None:
    """Runs in mergekit's environment: its own TIES arithmetic, tensor by tensor."""
    import torch
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = [safe_open(path, framework="pt") for path in paths]
    base = safe_open(paths[0].with_name("base.safetensors"), framework="pt")
    merged = {}
    for name in base.keys():  # noqa: SIM118 - a file, not a map
        start = base.get_tensor(name)
        deltas = torch.stack(
            [
                sparsify(
                    file.get_tensor(name) - start, density=0.5, method=SparsificationMethod.magnitude,
                    rescale_norm=RescaleNorm.l1,
                )
                for file in files
            ]
        )  # fmt: skip
        scale = torch.tensor(weights, dtype=torch.float32).view(-1, 1, 1) / sum(weights)
        weighted = deltas * scale
        mask = get_mask(weighted, method="sum", mask_dtype=torch.float32)
        merged[name] = start + (weighted * mask).sum(0) / (scale * mask).sum(0).clamp_min(1e-8)
    save_file(merged, out)


KINDS = {
    "mean": _ours("mean/1"), "trimmed": _ours("trimmed/1"), "torch": _plain, "crdt": _crdt, "ties": _ties,
}  # fmt: skip
IMPORTS = {
    "mean": "spore_borg.learn.merging", "trimmed": "spore_borg.learn.merging", "torch": "safetensors.torch",
    "crdt": "spore_borg.learn.crdt", "ties": "mergekit.merge_methods",
}  # fmt: skip


def one(kind: str, folder: Path, parts: int) -> None:
    """Merge once in this process; prints CPU seconds and the growth of peak memory in MB."""
    import torch

    torch.set_num_threads(1)
    importlib.import_module(IMPORTS[kind])
    paths = [folder / f"{i}.safetensors" for i in range(parts)]
    weights = [WEIGHTS[i % len(WEIGHTS)] for i in range(parts)]
    memory, began_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    KINDS[kind](paths, weights, folder / f"out-{kind}.safetensors")
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(json.dumps([time.process_time() - began_s, grown_mb]))


def mergekit() -> str | None:
    """The interpreter that has mergekit, or None; standard error says why."""
    home = ROOT / ".venv-mergekit"
    python, stamp = home / "bin" / "python", home / ".ready"
    if stamp.exists():
        return str(python)
    try:
        # The torch that is here is used there too: mergekit itself is small.
        commands = (
            [sys.executable, "-m", "venv", "--clear", "--system-site-packages", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "mergekit", "immutables", "tqdm"],
        )
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        needs = ("pydantic", "pyyaml", "transformers", "accelerate", "click", "typing_extensions", "networkx")
        missing = [name for name in needs if importlib.util.find_spec(name.replace("pyyaml", "yaml")) is None]
        command = [str(python), "-m", "pip", "install", "--quiet", *missing]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"mergekit cannot be installed here, its row is left out: {error}", file=sys.stderr)
        return None
    stamp.touch()
    return str(python)


def measured(kind: str, python: str, folder: Path, parts: int, repeats: int) -> list[list[float]]:
    """[CPU seconds, MB] of every repeat; empty where it does not run."""
    found = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *[entry for entry in sys.path if "site-packages" in entry]]
    )
    for _ in range(repeats):
        command = [
            python,
            "-m",
            "tests.bench.merge",
            "--one",
            kind,
            "--folder",
            str(folder),
            "--parts",
            str(parts),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            print(f"{kind} does not run: {last}", file=sys.stderr)
            return []
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


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
    with tempfile.TemporaryDirectory(prefix="spore-borg-merge-") as folder:
        make(Path(folder), given.parts, given.million)
        runs = {
            kind: measured(kind, sys.executable, Path(folder), given.parts, given.repeats)
            for kind in ("torch", "mean", "trimmed", "crdt")
        }
        python = None if given.no_mergekit else mergekit()
        runs["ties"] = measured("ties", python, Path(folder), given.parts, 1) if python else []
    cpu = {kind: [run[0] for run in found] for kind, found in runs.items() if found}
    emit("merge_mean_cpu", cpu.get("mean", []))
    emit("merge_trimmed_cpu", cpu.get("trimmed", []))
    emit("merge_mean_memory", [run[1] for run in runs["mean"]])
    emit("merge_trimmed_memory", [run[1] for run in runs["trimmed"]])
    for row, (over, under) in {
        "merge_mean_over_torch": ("mean", "torch"),
        "merge_trimmed_over_torch": ("trimmed", "torch"),
        "merge_crdt_over_mean": ("crdt", "mean"),
        "merge_crdt_over_trimmed": ("crdt", "trimmed"),
        "merge_ties_over_trimmed": ("ties", "trimmed"),
    }.items():
        if over in cpu and under in cpu:
            middle = statistics.median(cpu[under])
            emit(row, [value / middle for value in cpu[over]])


if __name__ == "__main__":
    main()
