"""The tasks that ship: what is measured, on how much validation text, and what a run may cost.

A task is a JSON-able dict of integers and strings plus its baseline recipe. Nothing here imports torch.
The ``sigma`` of pico and nano is the sd that ``python -m workspace.noise TASK --seeds 6`` printed on one x86-64
core, torch 2.13: pico 2,342,253,928 ± 7,431,617 (1.7 CPU-s a run), nano 1,843,352,904 ± 3,744,642 (13.4 CPU-s).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workspace.recipe import BASELINE_MICRO, BASELINE_NANO, BASELINE_PICO

Task = dict[str, Any]

TOLERANCE_SHARE = 100_000  # a recomputed block may differ by 1 part in this many

_COMMON: Task = {
    "metric": "val_bpb",
    "direction": "min",
    "unit": "nano-bits/byte",
    "harness": "workspace",
    "segments": 10,
    "vocab": 1_024,
    "seq": 64,
    "gain_min": 10_000_000,  # 0.01 bits per byte
}

_TASKS: dict[str, Task] = {
    "pico": {
        **_COMMON,
        "name": "pico",
        "budget_flops": 30_000_000_000,
        "floor_flops_per_step": 30_000_000,
        "steps_max": 1_000,
        "params_max": 1_000_000,
        "cpu_s_max": 60,
        "blocks": 32,
        "block_tokens": 256,
        "sigma": 7_431_617,
        "val_bytes": 24_337,
        "baseline": BASELINE_PICO,
    },
    "nano": {
        **_COMMON,
        "name": "nano",
        "budget_flops": 400_000_000_000,
        "floor_flops_per_step": 100_000_000,
        "steps_max": 4_000,
        "params_max": 2_000_000,
        "cpu_s_max": 240,
        "blocks": 64,
        "block_tokens": 512,
        "sigma": 3_744_642,
        "val_bytes": 97_139,
        "baseline": BASELINE_NANO,
    },
    "micro": {
        **_COMMON,
        "name": "micro",
        "budget_flops": 1_600_000_000_000,
        "floor_flops_per_step": 200_000_000,
        "steps_max": 8_000,
        "params_max": 8_000_000,
        "cpu_s_max": 960,
        "blocks": 64,
        "block_tokens": 512,
        "sigma": 3_744_642,  # not measured yet: that of nano
        "val_bytes": 97_139,
        "baseline": BASELINE_MICRO,
    },
}

NAMES = tuple(_TASKS)


class TaskError(ValueError):
    """A task that this harness cannot run; the message names the setting."""


def spec(name: str, **changes: int | str) -> Task:
    """A fresh copy of a shipped task; ``changes`` replace settings, such as ``val_bytes`` for other text.

    Raises:
        TaskError: no task has that name.
    """
    if name not in _TASKS:
        raise TaskError(f"no task {name!r}; the shipped tasks are {', '.join(NAMES)}")
    found = dict(_TASKS[name])
    found["baseline"] = dict(found["baseline"])
    found.update(changes)
    return found


_INTEGERS = {
    "budget_flops": (1, 10**18), "floor_flops_per_step": (1, 10**15), "steps_max": (1, 1_000_000),
    "params_max": (1, 10**10), "cpu_s_max": (1, 10**6), "segments": (1, 32), "blocks": (1, 256),
    "block_tokens": (1, 1 << 20), "seq": (1, 4_096), "vocab": (2, 65_536), "val_bytes": (0, 1 << 32),
}  # fmt: skip


def check(task: Mapping[str, Any]) -> None:
    """Raise TaskError unless every setting that the harness reads is there and inside its bounds."""
    for name, (low, high) in _INTEGERS.items():
        value = task.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise TaskError(f"the task's {name} is {value!r}; it must be an integer from {low} to {high}")
    if task["block_tokens"] % task["seq"]:
        raise TaskError(f"the task's block_tokens must be a multiple of its seq ({task['seq']})")
