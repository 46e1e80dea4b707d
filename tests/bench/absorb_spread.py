"""How far the losses of one absorption differ between instruction sets and numbers of threads.

``python -m tests.bench.absorb_spread SOURCE [STEPS]`` converts a model on the small suite and measures its shard again
in processes with other instruction sets; the tolerance of the absorption task (``node/tasks.py``) stands above that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from spore_borg.node.tasks import FIDELITY_TOLERANCE, suite_task_body, task_spec
from spore_borg.records.cid import RAW, Cid
from spore_borg.runner import absorb_ops, convert_ops
from spore_borg.views import gate

VARIANTS = (("default", 1), ("avx2", 1), ("avx512", 2))


def _report(_stage: str, _layer: int, _layers: int) -> None:
    """Nobody listens."""


def measured(job: Path, threads: int) -> None:
    """In a process of its own: the losses of a job on stdout."""
    import torch

    torch.set_num_threads(threads)
    print(json.dumps(convert_ops.measure(json.loads(job.read_text()), _report)["losses"]))


def main(source: str, steps: int) -> None:
    """Convert, then measure in every variant, and print the largest differences of a block."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        found = absorb_ops.source({"source": source, "out_dir": str(work / "source")}, _report)
        suite = absorb_ops.suite({"out_dir": str(work / "suite"), "small": True}, _report)
        task = task_spec(suite_task_body(suite["probes"], Cid.of(b"", RAW), bytes(32)))
        job: dict[str, Any] = {
            "task": task, **found, "suite_path": suite["path"], "state": [], "rule": "few-spike/1", "steps": steps,
            "blocks": list(range(gate.BLOCKS)),
        }  # fmt: skip
        answer = convert_ops.absorb({**job, "out_dir": str(work / "shard")}, _report)
        file = work / "job.json"
        file.write_text(json.dumps({**job, "shard_path": answer["shard_path"]}))
        mean = sum(answer["losses"][: gate.UNITS]) // gate.UNITS
        print(
            f"{found['name']} with {steps} steps: {mean} nano a fidelity block; tolerance {FIDELITY_TOLERANCE}"
        )
        for capability, threads in VARIANTS:
            command = [sys.executable, "-m", "tests.bench.absorb_spread", "--job", str(file), str(threads)]
            environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            apart = [abs(answer["losses"][block] - loss) for block, loss in json.loads(done.stdout)]
            print(
                f"{capability}, {threads} thread(s): {max(apart[: gate.UNITS])} nano at most in a fidelity block, "
                f"{max(apart[gate.UNITS :])} in a block of a probe"
            )


if __name__ == "__main__":
    if sys.argv[1] == "--job":
        measured(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
