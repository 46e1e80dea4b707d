"""Between a task record and the settings that the harness takes: one mapping, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.views import budget, gate

_SHARED = (
    "name", "metric", "direction", "unit", "sigma", "gain_min", "budget_flops", "segments", "blocks", "block_tokens",
    "val_bytes",
)  # fmt: skip
TOLERANCE_UNATS = 10  # 1e-5 nats a token: fp32 evaluation of one checkpoint differs by 2.2e-7 across CPUs
FIDELITY_TOLERANCE = 100_000  # nano, of one block; across instruction sets see tests/bench/absorb_spread.py
NANO_BITS_PER_UNAT = 1443  # 1e-6 / ln 2, in nano-bits, rounded up


def task_spec(task: Task) -> dict[str, Any]:
    """What the worker is told: the record's fields and the harness's own settings, flat."""
    return {**task.spec, **{name: getattr(task, name) for name in _SHARED}, "baseline": task.baseline}


def task_body(spec: Mapping[str, Any], data: Cid, evaluator: bytes, tolerance: int | None = None) -> Task:
    """The record of a shipped task, whose dataset is the blob ``data``.

    Args:
        tolerance: of one block's loss, nano-bits; None: that of floating point.
    """
    if tolerance is None:
        tolerance = TOLERANCE_UNATS * NANO_BITS_PER_UNAT * int(spec["block_tokens"])
    own = {name: value for name, value in spec.items() if name not in _SHARED and name != "baseline"}
    return Task(
        **{name: spec[name] for name in _SHARED},
        tolerance=tolerance,
        data=data, evaluator=evaluator, spec=own, baseline=dict(spec["baseline"]),
    )  # fmt: skip


def suite_task_body(probes: Sequence[Mapping[str, Any]], data: Cid, evaluator: bytes) -> Task:
    """The record of the mesh's task for absorptions.

    Args:
        probes: of the suite, in the order of their slots: ``name modality fidelity`` (items).
        data: the suite's blob; evaluator: digest of the code that measures.
    """
    items: dict[str, int] = {}
    for probe in probes:
        items[f"items_{probe['modality']}"] = items.get(f"items_{probe['modality']}", 0) + int(
            probe["fidelity"]
        )
    names = [str(probe["name"]).replace(",", " ") for probe in probes]
    spec: dict[str, int | bool | str] = {
        "kind": "absorption",
        "probes": ",".join(names).encode()[:256].decode(errors="ignore"),
        **items,
        "bytes_free": budget.BYTES_FREE,
        "bytes_max": budget.BYTES_MAX,
        "ops_free": budget.OPS_FREE,
        "ops_max": budget.OPS_MAX,
    }
    return Task(
        name="absorb", metric="infidelity", direction="min", unit="nano", sigma=0, gain_min=0, budget_flops=1,
        segments=gate.SEGMENTS, blocks=gate.BLOCKS, block_tokens=1, val_bytes=1, tolerance=FIDELITY_TOLERANCE,
        data=data, evaluator=evaluator, spec=spec, baseline={},
    )  # fmt: skip
