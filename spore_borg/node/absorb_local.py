"""``borg absorb --local``: convert and measure a model without a mesh; write the shard and a report."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from spore_borg.config import Config, load
from spore_borg.errors import UsageError
from spore_borg.home import Home
from spore_borg.node.tasks import suite_task_body, task_spec
from spore_borg.records.cid import RAW, Cid
from spore_borg.runner.client import Worker
from spore_borg.views import gate

HELLO_TIMEOUT_S = 300.0
LIMIT_S = 4 * 3_600.0
SHARD, REPORT = "shard.safetensors", "report.json"
Tell = Callable[[str], None]


def main(path: Path, source: str, out: Path, *, steps: int, rule: str, tell: Tell) -> dict[str, Any]:
    """Convert a source.

    Args:
        path: the node's home, for downloads under way; out: a directory that is empty or not there yet.
        tell: told what is being done, in words.
    Returns:
        name, origin, licence, head, modality, params_count, fidelity_nano, probes, report, layers, files.
    Raises:
        UsageError: the directory is not empty. WorkerRefused: the source cannot be fetched, read or converted.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(detail=f"{out} is not an empty directory. Name another one.")
    home = Home(path).create()
    config = load(home.config)
    with tempfile.TemporaryDirectory(prefix="absorb-local-", dir=home.work) as folder:
        value = trio.run(_convert, source, Path(folder), config, steps, rule, tell)
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(value.pop("shard_path"), out / SHARD)
    value["dir"], value["files"] = str(out), [SHARD, REPORT]
    (out / REPORT).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return value


async def _convert(
    source: str, folder: Path, config: Config, steps: int, rule: str, tell: Tell
) -> dict[str, Any]:
    async with Worker() as worker:
        hello = await worker.call("hello", {"threads": 1}, timeout_s=HELLO_TIMEOUT_S)
        tell(f"fetches {source}")
        wanted = {"source": source, "out_dir": str(folder / "source"), "offline": config.offline}
        found = await worker.call("source", wanted, timeout_s=LIMIT_S)
        tell("builds the probe suite")
        wanted = {
            "out_dir": str(folder / "suite"),
            "offline": config.offline,
            "small": config.suite == "small",
        }
        suite = await worker.call("suite", wanted, timeout_s=LIMIT_S)
        task = suite_task_body(suite["probes"], Cid.of(b"", RAW), bytes.fromhex(hello["absorber"]))
        job = {
            "task": task_spec(task), **found, "suite_path": suite["path"], "state": [], "steps": steps, "rule": rule,
            "out_dir": str(folder / "shard"),
            "cache_dir": str(folder / "cache"),
        }  # fmt: skip
        told = ""

        def report(step: dict[str, Any]) -> None:
            nonlocal told
            if str(step.get("stage")) != told:
                told = str(step.get("stage"))
                tell(f"{told} {found['name']}")

        answer = await worker.call("absorb", job, on_progress=report, timeout_s=LIMIT_S)
    losses = answer["losses"]
    weighed = gate.weigh_probes(losses, range(gate.BLOCKS), gate.probe_names(task.spec))
    return {
        **{name: answer[name] for name in ("name", "head", "modality", "licence", "params_count", "layers", "cpu_ms")},
        "origin": found["origin"], "rule": rule, "steps": steps, "shard_path": answer["shard_path"],
        "fidelity_nano": 10**9 - gate.infidelity(losses, task, answer["modality"]),
        "probes": [{"probe": w.name, "pairs": w.pairs, "gain": w.gain, "word": w.word} for w in weighed],
        "report": answer.get("report", {}),
    }  # fmt: skip
