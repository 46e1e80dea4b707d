"""A frontier result to take away: weights, recipe, data, and every record that proves it.

``verify`` needs nothing but the directory: it folds the records again, compares digests, and evaluates the
weights with the harness that is installed here. Layout: docs/reference/bundle.md.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spore_borg.errors import BorgError, IntegrityError, NotFound, UsageError
from spore_borg.home import Home
from spore_borg.limits import RECORD_SIZE_BYTES_MAX
from spore_borg.node import control_client
from spore_borg.node.lattices import evaluator_of
from spore_borg.node.once import call_worker
from spore_borg.node.rebuild import check_records
from spore_borg.node.tasks import task_spec
from spore_borg.records.bodies import Experiment
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record, parse
from spore_borg.records.keys import node_name
from spore_borg.records.reasons import Refused
from spore_borg.store.blobs import Blobs
from spore_borg.store.log import Log
from spore_borg.views.frontier import short_unit, show
from spore_borg.views.reduce import View
from spore_borg.views.verdicts import ACCEPTED, Claim

WEIGHTS, RECIPE, DATA, RECORDS, ABOUT = (
    "weights.safetensors",
    "recipe.json",
    "data.safetensors",
    "records.bin",
    "bundle.json",
)
_LENGTH = struct.Struct(">I")


def fetch(path: Path, target: Path, *, task: str | None, hardware: str | None) -> dict[str, Any]:
    """Write the best result to a directory.

    Args:
        path: the node's home; target: a directory that is empty or not there yet.
        task, hardware: which frontier, where there are several (name or cid; class).
    Raises:
        NotFound: no accepted result yet, or its weights are nowhere to be had. UsageError: the target is not empty.
    """
    home = Home(path)
    if target.exists() and any(target.iterdir()):
        raise UsageError(detail=f"The directory {target} is not empty. Name another one.")
    with Log.open_readonly(home.log) as log:
        records = [record for _, record in log.scan()]
    view = View(records)
    claim = _best(view, task, hardware)
    assert claim.body.weights is not None, "an accepted claim has weights"
    target.mkdir(parents=True, exist_ok=True)
    for name, cid in ((WEIGHTS, claim.body.weights), (DATA, claim.task.data)):
        shutil.copyfile(_blob(home, cid), target / name)
    (target / RECIPE).write_text(json.dumps(claim.recipe, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _write_records(target / RECORDS, view.dag.records)
    about = {
        "format": 1, "experiment": str(claim.target.cid), "mesh": str(view.genesis.cid) if view.genesis else "",
        "task": claim.task.name, "class": claim.body.family, "metric": claim.body.metric, "unit": claim.task.unit,
        "author": node_name(claim.author), "round": view.round, "digest": (view.digest_of(view.round) or b"").hex(),
        "status": "confirmed" if claim.verdict == ACCEPTED else "solo",
    }  # fmt: skip
    (target / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return {"dir": str(target), "files": sorted(p.name for p in target.iterdir()), **about}


def _best(view: View, task: str | None, hardware: str | None) -> Claim:
    for frontiers in (view.frontiers, view.solo):
        for (cid, family), frontier in sorted(frontiers.items()):
            if (
                frontier.steps
                and task in (None, str(cid), view.tasks[cid].name)
                and hardware in (None, family)
            ):
                return view.claims[frontier.steps[-1].cid]
    raise NotFound(
        what="accepted result", name=task or "", hint="`borg queue` shows what waits for evidence."
    )


def _blob(home: Home, cid: Cid) -> Path:
    blobs = Blobs(home.blobs)
    if not blobs.has(cid):
        control_client.fetch_blob(home, cid)
    blobs.verify(cid)
    return blobs.path(cid)


def _write_records(path: Path, records: list[Record]) -> None:
    with path.open("wb") as file:
        for record in records:
            file.write(_LENGTH.pack(len(record.raw)) + record.raw)


def _read_records(path: Path) -> Iterator[Record]:
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        size = _LENGTH.unpack_from(raw, at)[0] if at + 4 <= len(raw) else RECORD_SIZE_BYTES_MAX + 1
        block = raw[at + 4 : at + 4 + size]
        if size > RECORD_SIZE_BYTES_MAX or len(block) != size:
            raise IntegrityError(
                what=str(path), detail="it ends inside a record", hint="Fetch the bundle again."
            )
        yield parse(block)
        at += 4 + size


def verify(directory: Path, *, evaluate: bool) -> dict[str, Any]:
    """Check a bundle offline.

    Returns:
        ok, experiment, checks: a list of {name, ok, detail}.
    Raises:
        NotFound: it is no bundle. IntegrityError: its record file is cut off.
    """
    missing = [name for name in (WEIGHTS, RECIPE, DATA, RECORDS, ABOUT) if not (directory / name).is_file()]
    if missing:
        raise NotFound(what="bundle in", name=str(directory), hint=f"It lacks {', '.join(missing)}.")
    try:
        about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
        recipe = json.loads((directory / RECIPE).read_text(encoding="utf-8"))
        experiment = Cid.parse(about["experiment"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            what=str(directory / ABOUT), detail=str(error), hint="Fetch the bundle again."
        ) from error
    checks: list[dict[str, Any]] = []

    def note(name: str, ok: bool, detail: str) -> bool:
        checks.append({"name": name, "ok": ok, "detail": detail})
        return ok

    claim = _check_records_part(directory, about, experiment, note)
    if claim is not None:
        _check_files(directory, claim, recipe, note)
        if evaluate and all(item["ok"] for item in checks):
            _check_weights(directory, claim, note)
    return {"ok": all(item["ok"] for item in checks), "experiment": str(experiment), "checks": checks}


def _check_records_part(directory: Path, about: dict[str, Any], experiment: Cid, note: Any) -> Claim | None:
    try:
        records = list(_read_records(directory / RECORDS))
    except Refused as error:
        note("signatures", False, str(error))
        return None
    view = View(records)
    mesh = view.genesis.cid if view.genesis else None
    damage = check_records(view.dag.records, mesh)
    note(
        "signatures",
        not damage,
        damage[0] if damage else f"{len(records)} records are signed and well-formed",
    )
    note("mesh", str(mesh) == about.get("mesh"), f"genesis {mesh}")
    closed = len(view.dag.records) == len({record.cid for record in records})
    note(
        "lineage",
        closed and _lineage(view, experiment),
        "every record and every base that it rests on is here",
    )
    digest = view.digest_of(view.round) or b""
    note("view digest", digest.hex() == about.get("digest"), f"round {view.round}: {digest.hex()[:16]}…")
    claim = view.claims.get(experiment)
    if claim is None or not isinstance(claim.body, Experiment):
        note("verdict", False, f"the records hold no such claim. {view.notes.get(experiment, '')}".rstrip())
        return None
    others = len(view.witnesses[experiment])  # the fold drew the seed again; with another one it is no claim
    bound = f"mixed of {others} seal(s) by others" if others else "its author was alone: nobody else bound it"
    note("seed", True, f"follows from intent {claim.body.intent}, {bound}")
    passes = sum(e.finding is not None and e.finding.word == "pass" for e in claim.evidence.values())
    note(
        "verdict",
        claim.verdict == ACCEPTED,
        f"{claim.verdict}: {claim.reason} ({passes} pieces of evidence agree)",
    )
    return claim


def _lineage(view: View, experiment: Cid) -> bool:
    waiting, seen = [experiment], set()
    while waiting:
        cid = waiting.pop()
        if cid in seen:
            continue
        seen.add(cid)
        if cid not in view.dag.index or view.dag.records[view.dag.index[cid]].kind != "experiment":
            return False
        waiting += view.body_of(cid).bases
    return True


def _check_files(directory: Path, claim: Claim, recipe: Any, note: Any) -> None:
    note("recipe", recipe == claim.recipe, "recipe.json is the recipe that was signed")
    for name, cid, what in (
        (WEIGHTS, claim.body.weights, "the weights are those that were signed"),
        (DATA, claim.task.data, "the data are those of the task"),
    ):
        found, _ = Blobs.manifest_of((directory / name).read_bytes())
        note(name, found == cid, what if found == cid else f"{name} is {found}, signed was {cid}")


def _check_weights(directory: Path, claim: Claim, note: Any) -> None:
    job = {
        "task": task_spec(claim.task), "recipe": claim.recipe, "data_path": str(directory / DATA),
        "weights_path": str(directory / WEIGHTS), "blocks": list(range(claim.task.blocks)),
    }  # fmt: skip
    try:
        hello, answer = call_worker("evaluate", job)
    except BorgError as error:
        note("evaluation", False, str(error))
        return
    note(
        "harness",
        evaluator_of(claim.task, hello) == claim.task.evaluator.hex(),
        "the evaluator here is the one that the task names",
    )
    metric = sum(loss for _, loss in answer["losses"]) // claim.task.val_bytes
    opened = claim.opening.body.losses if claim.opening else ()
    apart = max(
        (abs(loss - opened[block]) for block, loss in answer["losses"] if block < len(opened)), default=0
    )
    fits = (
        bool(opened)
        and apart <= claim.task.tolerance
        and answer["params"] == (claim.body.params or b"").hex()
    )
    unit = short_unit(claim.task.unit)
    note("evaluation", fits, f"{show(metric)} {unit} recomputed here, {show(claim.body.metric or 0)} claimed; "
         f"no block is more than {apart} nano-bits apart (allowed: {claim.task.tolerance})")  # fmt: skip
