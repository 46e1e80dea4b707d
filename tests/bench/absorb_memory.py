"""Peak memory of reading a whole checkpoint and writing it as int8: ``python -m tests.bench.absorb_memory``.

Makes a safetensors checkpoint with the tensors of a 7-billion-parameter decoder in float16 (12.6 GiB; fewer layers
where the disk is small) and a torch checkpoint of 2.5 GiB, and lets a child process quantise each, tensor by tensor,
under an address space of 4 GiB. The first is mostly holes, with numbers at the start of every tensor. Takes about 95
CPU seconds, and the disk's time for 7 GiB of output. All files are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from spore_borg.learn import formats

LIMIT_BYTES = 4 << 30
DISK_BYTES_MIN = 20 << 30
WIDTH, INNER, WORDS, LAYERS = 4_096, 11_008, 32_000, 32
TORCH_TENSORS, TORCH_SHAPE = 40, (4_096, 4_096)  # float32: 64 MiB each
RANDOM_BYTES = 1 << 20


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a decoder with this many layers."""
    made: dict[str, tuple[int, ...]] = {"embed.weight": (WORDS, WIDTH), "head.weight": (WORDS, WIDTH)}
    for layer in range(layers):
        for name in "qkvo":
            made[f"layers.{layer}.attention.{name}"] = (WIDTH, WIDTH)
        made[f"layers.{layer}.mlp.up"] = made[f"layers.{layer}.mlp.gate"] = (INNER, WIDTH)
        made[f"layers.{layer}.mlp.down"] = (WIDTH, INNER)
        made[f"layers.{layer}.norm"] = (WIDTH,)
    return made


def make_safetensors(path: Path, layers: int) -> None:
    """A valid file made of holes, with finite float16 numbers at the start of every tensor."""
    header, at = {}, 0
    for name, shape in shapes(layers).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    generator = torch.Generator().manual_seed(1)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + at)
        for item in header.values():
            begin, end = item["data_offsets"]  # type: ignore[misc]
            count = min(RANDOM_BYTES, int(end) - int(begin)) // 2
            out.seek(8 + len(text) + int(begin))
            out.write(torch.randn(count, generator=generator).half().numpy().tobytes())


def make_torch(path: Path) -> None:
    """A checkpoint as a trainer leaves it."""
    generator = torch.Generator().manual_seed(2)
    state = {f"layer.{i}": torch.randn(TORCH_SHAPE, generator=generator) for i in range(TORCH_TENSORS)}
    torch.save({"epoch": 1, "state_dict": state}, path)


def quantise(source: Path, out_path: Path) -> None:
    """Each tensor as int8 with a scale per row, written at once; only one tensor is held."""
    weights = formats.open_weights(source)
    numbers = 0
    with out_path.open("wb") as out:
        for name in weights.names():
            tensor = weights.load(name).float()
            rows = tensor.reshape(tensor.shape[0], -1)
            scales = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12)
            out.write(rows.div_(scales).round_().to(torch.int8).numpy().tobytes())
            out.write(scales.numpy().tobytes())
            numbers += rows.numel()
    peak_kib = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    cpu_s = time.process_time()
    print(
        json.dumps(
            {
                "numbers": numbers,
                "tensors": len(weights.names()),
                "peak_mib": int(peak_kib.split()[1]) >> 10,
                "cpu_s": round(cpu_s, 1),
            }
        )
    )


def measure(source: Path) -> dict[str, float]:
    """Quantise in a child under the limit; its own report, with the source's size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))

    out_path = source.with_suffix(".int8")
    command = [sys.executable, "-m", "tests.bench.absorb_memory", "--child", str(source), str(out_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, preexec_fn=limit, env=env, capture_output=True, text=True, timeout=400, check=False
        )
        if done.returncode:
            raise SystemExit(f"{source.name} failed under {LIMIT_BYTES >> 30} GiB: {done.stderr[-800:]}")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return {"source_mib": source.stat().st_size >> 20, "out_mib": out_path.stat().st_size >> 20, **found}
    finally:
        out_path.unlink(missing_ok=True)


def main() -> None:
    """Make, measure, remove, print; ends with an error if a peak reaches the limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "OUT"))
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=LAYERS)
    args = parser.parse_args()
    if args.child:
        quantise(Path(args.child[0]), Path(args.child[1]))
        return
    layers = args.layers
    if shutil.disk_usage(args.dir).free < DISK_BYTES_MIN:
        layers = min(layers, 4)
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="absorb-memory-") as scratch:
        for name, make in (
            ("safetensors", lambda path: make_safetensors(path, layers)),
            ("torch", make_torch),
        ):
            source = Path(scratch) / f"model.{name}"
            make(source)
            found = measure(source)
            source.unlink()
            print(f"{name}: {json.dumps(found)}", flush=True)
            if found["peak_mib"] << 20 >= LIMIT_BYTES:
                raise SystemExit(f"{name}: {found['peak_mib']} MiB at the peak, over the limit")


if __name__ == "__main__":
    main()
