"""The worker's operations on sources: build the suite, fetch, say what a model is. ``learn`` does the work.

The table is in docs/internals/absorption.md. torch and ``learn`` are imported by the first operation that needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spore_borg.learn.graph import Model

Params = dict[str, Any]
Report = Callable[[str, int, int], None]  # stage, layer, layers
Op = Callable[[Params, Report], dict[str, Any]]


class OpError(ValueError):
    """A request that lacks a parameter, or has one of the wrong type."""


def suite(params: Params, _report: Report) -> dict[str, Any]:
    """Build the probe suite: ``path probes[{name modality classes fit test …}]``."""
    from spore_borg.learn import suite as suites

    built = suites.build(
        Path(get(params, "out_dir", str)),
        offline=get(params, "offline", bool, False),
        small=get(params, "small", bool, False),
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
        get(params, "source", str), Path(get(params, "out_dir", str)),
        offline=get(params, "offline", bool, False), each=lambda text: report(text, 0, 0),
    )  # fmt: skip
    files = [[name, str(path)] for name, path in found.files]
    return {"files": files, "origin": found.origin, "licence": found.licence, "name": found.name}


def inspect(params: Params, _report: Report) -> dict[str, Any]:
    """What a model is, before it is converted: ``name head modality params_count architecture licence``."""
    info = model_of(params).info
    names = ("name", "head", "modality", "params_count", "architecture", "licence")
    return {name: getattr(info, name) for name in names}


OPS: dict[str, Op] = {"suite": suite, "source": source, "inspect": inspect}


def get(params: Params, name: str, kind: type, default: object = None) -> Any:
    """A parameter of this type. Raises OpError."""
    value = params.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise OpError(f"{name} is {type(value).__name__}; this op needs {kind.__name__}")
    return value


def pairs(params: Params, name: str) -> list[tuple[str, Path]]:
    """A parameter that is ``[[name, path], …]``. Raises OpError."""
    found = get(params, name, list)
    if not all(
        type(row) is list and len(row) == 2 and all(type(part) is str for part in row) for row in found
    ):
        raise OpError(f"{name} is a list of [name, path]")
    return [(key, Path(path)) for key, path in found]


def model_of(params: Params) -> Model:
    """The model in ``files``, with the words that the record has for it: they go into the shard's metadata.

    With ``merge`` the files are those of several models, and the model is what they give merged.
    """
    files = dict(pairs(params, "files"))
    if params.get("merge") is None:
        return _imported(params, files)
    from spore_borg.learn.lineage import merged_model

    asked = get(params, "merge", dict)
    incomes = get(asked, "incomes", list)
    if not all(type(weight) is int for weight in incomes):
        raise OpError("incomes are whole numbers")
    models = [_imported(params, _below(files, f"{number:02d}/")) for number in range(len(incomes))]
    base = _imported(params, _below(files, "base/")) if get(asked, "base", bool, False) else None
    scratch = Path(get(params, "scratch_dir", str))
    return merged_model(models, incomes, get(asked, "rule", str), scratch, base)


def _imported(params: Params, files: dict[str, Path]) -> Model:
    from spore_borg.learn.importers import import_model

    said = {name: get(params, name, str, "unknown") for name in ("origin", "licence", "name")}
    return import_model(files, origin=said["origin"], licence=said["licence"], name=said["name"])


def _below(files: dict[str, Path], folder: str) -> dict[str, Path]:
    """The files of one input, by the names that it gave them."""
    return {name.removeprefix(folder): path for name, path in files.items() if name.startswith(folder)}
