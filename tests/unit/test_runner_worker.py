"""The worker process and its handle: what crosses the pipe, and what happens when either side fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.runner import fingerprint
from spore_borg.runner.client import STDERR_KEPT_BYTES, Worker, child_environment
from spore_borg.runner.errors import WorkerFailed, WorkerRefused, WorkerTimedOut
from spore_borg.runner.hardware import card_family, cpu_family, family
from workspace import data, evaluate, tasks

ROOT = Path(fingerprint.__file__).parents[2]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of a run of about 0.2 CPU seconds."""
    room = tmp_path_factory.mktemp("job")
    path = room / "data.safetensors"
    data.build(path)
    task = tasks.spec(
        "pico", budget_flops=1_500_000_000, floor_flops_per_step=1_000_000, blocks=4, segments=4
    )
    task["baseline"] |= {"depth": 1, "width": 16, "heads": 1, "batch": 2}
    task["val_bytes"] = evaluate.val_bytes(task, data.load(path))
    return {
        "task": task, "recipe": task["baseline"], "seed": 2**64 - 1, "data_path": str(path),
        "out_dir": str(room / "out"),
    }  # fmt: skip


def endless(job: dict[str, Any]) -> dict[str, Any]:
    """The same run with so large a budget that it does not end by itself."""
    return {**job, "task": {**job["task"], "budget_flops": 10**15, "steps_max": 1_000_000, "cpu_s_max": 60}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 3060", "RTX_3060"),
        ("NVIDIA GeForce RTX 4090", "RTX_4090"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "RTX_3060_LAPTOP"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX_4070_TI_SUPER"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA RTX 4000 Ada Generation", "RTX_4000_ADA"),
        ("", "CUDA_UNKNOWN"),
        ("x" * 200, "X" * 64),
    ],
)
def test_cards_have_plain_families(name: str, expected: str) -> None:
    assert card_family(name) == expected


def test_processors_have_families() -> None:
    assert cpu_family("AMD64") == cpu_family("x86_64") == "CPU_X86_64"
    assert cpu_family("arm64") == cpu_family("aarch64") == "CPU_AARCH64"
    assert family("mps") == "MPS"
    assert family("cuda", "NVIDIA L4") == "L4"


def test_hardware_knows_its_families_without_torch() -> None:
    code = "import sys, spore_borg.runner.hardware, spore_borg.runner.client, workspace.recipe, workspace.tasks, " \
           "workspace.harness; print('torch' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_a_fingerprint_repeats_and_sees_threads() -> None:
    assert fingerprint.measure("cpu", 1) == fingerprint.measure("cpu", 1)
    assert fingerprint.measure("cpu", 1) != fingerprint.measure("cpu", 2)
    started_s = time.process_time()
    fingerprint.measure("cpu", 1)
    assert time.process_time() - started_s < 1


def test_the_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPORE_BORG_TEST_TOKEN", "hush-hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    code = (
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'id': json.loads(line)['id'], 'result': dict(os.environ)}), flush=True)"
    )

    async def main() -> dict[str, Any]:
        async with Worker(command=(sys.executable, "-c", code), threads=3) as worker:
            return await worker.call("hello")

    seen = trio.run(main)
    assert "hush-hush" not in json.dumps(seen)
    assert seen["OMP_NUM_THREADS"] == "3"
    assert "PATH" in seen
    assert set(child_environment({"GITHUB_TOKEN": "x", "HOME": "/h"}, 1)).isdisjoint({"GITHUB_TOKEN"})


def test_train_evaluate_and_replay_agree_across_processes(job: dict[str, Any]) -> None:
    async def main() -> None:
        seen: list[dict[str, Any]] = []
        async with Worker(device="cpu") as worker:
            about = await worker.call("hello")
            assert about["family"] == about["class"] == cpu_family()
            assert len(bytes.fromhex(about["fingerprint"])) == 32
            done = await worker.call("train", job, seen.append)
            assert done["status"] == "done"
            assert seen[-1]["step"] == seen[-1]["steps"] == done["steps"]
            planned = await worker.call("steps", {"task": job["task"], "recipe": job["recipe"]})
            assert planned["steps"] == done["steps"]
            with pytest.raises(WorkerRefused) as caught:
                await worker.call("train", {**job, "recipe": {**job["recipe"], "lr": 1}})
            assert caught.value.fields["kind"] == "recipe"
            with pytest.raises(WorkerRefused) as caught:
                await worker.call("replay", {**job, "segment": "1"})
            assert caught.value.fields["kind"] == "request"
            assert worker.starts == 1
        async with Worker(device="cpu", resource=40) as other:
            again = await other.call(
                "replay", {**job, "segment": 2, "state_path": done["state_paths"][2], "inner_step": 3}
            )
            assert (again["start"], again["end"]) == (done["digests"][2], done["digests"][3])
            slow = await other.call("train", {**job, "out_dir": job["out_dir"] + "2"})
            assert slow["digests"] == done["digests"]  # a share of the device never changes a result
            assert slow["params"] == done["params"]
            checked = await other.call(
                "evaluate", {**job, "weights_path": done["weights_path"], "blocks": [3]}
            )
            assert checked == {"losses": [[3, done["losses"][3]]], "params": done["params"]}

    trio.run(main)


def test_a_worker_comes_back_after_time_limits_cancellation_and_death(job: dict[str, Any]) -> None:
    async def main() -> None:
        long = endless(job)
        async with Worker(device="cpu") as worker:
            await worker.call("hello")
            first = worker.pid
            with pytest.raises(WorkerTimedOut, match=r"longer than 0.5 s for train"):
                await worker.call("train", long, timeout_s=0.5)
            assert worker.pid is None
            assert not _alive(first)
            with trio.CancelScope() as scope:
                await worker.call("train", long, lambda _: scope.cancel())
            assert scope.cancelled_caught
            assert worker.pid is None

            def end(_: dict[str, Any]) -> None:
                if worker.pid is not None:
                    os.kill(worker.pid, signal.SIGKILL)

            with pytest.raises(WorkerFailed, match="exit status -9"):
                await worker.call("train", long, end)
            async with trio.open_nursery() as nursery:  # two at once: one waits for the other
                nursery.start_soon(worker.call, "hello")
                nursery.start_soon(worker.call, "hello")
            assert worker.starts == 4
            last = worker.pid
        assert not _alive(last)

    trio.run(main)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('hello there', flush=True); sys.stdin.read()", "broke its protocol"),
        ("print('[1]', flush=True); sys.stdin.read()", "an answer to no request"),
        ("print('x' * (5 << 20), flush=True); sys.stdin.read()", "a line of more than"),
        ("sys.stdin.readline(); raise RuntimeError('out of luck')", "last words: RuntimeError: out of luck"),
    ],
)
def test_a_child_that_breaks_the_protocol_is_ended(body: str, message: str) -> None:
    async def main() -> None:
        async with Worker(command=(sys.executable, "-c", "import sys; " + body)) as worker:
            with pytest.raises(WorkerFailed, match=message):
                await worker.call("hello")
            assert worker.pid is None

    trio.run(main)


def test_only_the_end_of_stderr_is_kept() -> None:
    code = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    sys.stderr.write('y' * 300_000 + 'END'); sys.stderr.flush()\n"
        "    print(json.dumps({'id': json.loads(line)['id'], 'result': {}}), flush=True)"
    )

    async def main() -> str:
        async with Worker(command=(sys.executable, "-c", code)) as worker:
            await worker.call("hello")
            await worker.call("hello")
            return worker.stderr

    assert len(trio.run(main)) == STDERR_KEPT_BYTES


def test_the_worker_leaves_when_its_parent_does_and_keeps_stdout_clean(job: dict[str, Any]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "spore_borg.runner.worker"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b'not json\n{"id": 2, "op": "fly"}\n')
        child.stdin.write(json.dumps({"id": 3, "op": "train", "params": endless(job)}).encode() + b"\n")
        child.stdin.flush()
        lines = [json.loads(child.stdout.readline()) for _ in range(3)]
        assert [line["error"]["kind"] for line in lines[:2]] == ["request", "request"]
        assert lines[2]["progress"]["step"] >= 1
        child.stdin.close()
        assert child.wait(10) == 0


def test_the_worker_unwinds_on_sigterm(job: dict[str, Any]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "spore_borg.runner.worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"id": 1, "op": "train", "params": endless(job)}).encode() + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        child.terminate()
        assert child.wait(10) == 143


def _alive(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    return True
