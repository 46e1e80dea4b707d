"""The worker's operations on models: fetch, convert, measure, convert a group again. ``learn`` does the work.

The table is in docs/internals/absorption.md. torch and ``learn`` are imported by the first operation that needs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spore_borg.learn.graph import Model
    from spore_borg.learn.spike.codes import Code

Params = dict[str, Any]
Report = Callable[[str, int, int], None]  # stage, layer, layers
Op = Callable[[Params, Report], dict[str, Any]]


class OpError(ValueError):
    """A request that lacks a parameter, or has one of the wrong type."""


def suite(params: Params, _report: Report) -> dict[str, Any]:
    """Build the probe suite: ``path probes[{name modality classes fit test …}]``."""
    from spore_borg.learn import suite as suites

    built = suites.build(
        Path(_get(params, "out_dir", str)),
        offline=_get(params, "offline", bool, False),
        small=_get(params, "small", bool, False),
    )
    return {
        "path": str(built.path),
        "probes": [probe.about() for probe in built.probes],
        "left_out": list(built.left_out),
    }


def source(params: Params, report: Report) -> dict[str, Any]:
    """Fetch a model's files: ``files[[name, path]] origin licence name``."""
    from spore_borg.learn.sources import fetch

    found = fetch(
        _get(params, "source", str), Path(_get(params, "out_dir", str)),
        offline=_get(params, "offline", bool, False), each=lambda text: report(text, 0, 0),
    )  # fmt: skip
    files = [[name, str(path)] for name, path in found.files]
    return {"files": files, "origin": found.origin, "licence": found.licence, "name": found.name}


def inspect(params: Params, _report: Report) -> dict[str, Any]:
    """What a model is, before it is converted: ``name head modality params_count architecture licence``."""
    info = _model(params).info
    names = ("name", "head", "modality", "params_count", "architecture", "licence")
    return {name: getattr(info, name) for name in names}


OPS: dict[str, Op] = {"suite": suite, "source": source, "inspect": inspect}


def _get(params: Params, name: str, kind: type, default: object = None) -> Any:
    value = params.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise OpError(f"{name} is {type(value).__name__}; this op needs {kind.__name__}")
    return value


def _pairs(params: Params, name: str) -> list[tuple[str, Path]]:
    found = _get(params, name, list)
    if not all(
        type(row) is list and len(row) == 2 and all(type(part) is str for part in row) for row in found
    ):
        raise OpError(f"{name} is a list of [name, path]")
    return [(key, Path(path)) for key, path in found]


def _blocks(params: Params) -> list[int]:
    blocks = _get(params, "blocks", list)
    most = int(_get(params, "task", dict)["blocks"])
    if not all(type(block) is int and 0 <= block < most for block in blocks):
        raise OpError(f"blocks are numbers from 0 to {most - 1}")
    return list(blocks)


def _model(params: Params) -> Model:
    from spore_borg.learn.importers import import_model

    files = dict(_pairs(params, "files"))
    said = {name: _get(params, name, str, "unknown") for name in ("origin", "licence", "name")}
    return import_model(files, origin=said["origin"], licence=said["licence"], name=said["name"])


def _code(params: Params) -> Code:
    from spore_borg.learn.spike.codes import Code

    return Code(_get(params, "rule", str), _get(params, "steps", int))


def _cpu_ms() -> int:
    return time.process_time_ns() // 1_000_000
