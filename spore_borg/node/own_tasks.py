"""A task of a user's own text: look the text over, build its dataset in a worker, publish the record.

Whoever runs or verifies an experiment needs the data, so publishing a task hands its text to the whole mesh.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from spore_borg.config import load
from spore_borg.errors import NodeUnreachable, NotAllowed, NotFound, UsageError
from spore_borg.home import Home
from spore_borg.node import control_client, setup
from spore_borg.node.hub import Hub
from spore_borg.node.lattices import lattice_task
from spore_borg.node.once import call_worker
from spore_borg.node.tasks import task_body
from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.records.reasons import Refused
from spore_borg.runner.errors import WorkerRefused
from spore_borg.views.lattices import KIND
from workspace import tasks, texts

GPT = "gpt"
KINDS = (GPT, KIND)
SHIPPED = (*tasks.NAMES, KIND)  # names of the tasks that ship
NAME_BYTES_MAX, LICENCE_BYTES_MAX = 64, 200
CID_PART_MIN = 8  # characters of an id that are taken for one
PUBLISH_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What would be published: files, their size and characters."""

    files: int
    size_bytes: int
    characters: int


@dataclass(frozen=True, slots=True)
class Built:
    """A dataset that is ready to be published.

    Attributes:
        path: its file, in the node's work directory; settings: of the task record, with name and baseline.
        evaluator: digest, hexadecimal; facts: what the worker said of the text.
    """

    path: Path
    settings: dict[str, Any]
    evaluator: str
    facts: dict[str, Any]


def survey(text: Path) -> Survey:
    """Look a text over without changing anything. Raises UsageError for what is no usable text."""
    try:
        files = texts.text_files(text)
        characters = sum(len(texts.read_text(file)) for file in files)
    except texts.DataError as error:
        raise UsageError(detail=f"This text cannot become a task: {error}.") from error
    return Survey(len(files), sum(file.stat().st_size for file in files), characters)


def check_words(name: str, licence: str) -> None:
    """Refuse a name or licence that a record cannot carry, or that means another task. Raises UsageError."""
    if name in (*SHIPPED, "absorb"):
        raise UsageError(detail=f"{name!r} is the name of a task that ships; choose another.")
    if not name.strip() or name != name.strip() or not name.isprintable() or name.startswith("-"):
        raise UsageError(
            detail="A task's name is printable text without a space at either end or a - in front."
        )
    for what, text, most in (("name", name, NAME_BYTES_MAX), ("licence", licence, LICENCE_BYTES_MAX)):
        if len(text.encode()) > most or not text.isprintable():
            raise UsageError(
                detail=f"The {what} has {len(text.encode())} bytes; at most {most}, printable, fit into a record."
            )
    if is_part_of_id(name):
        raise UsageError(detail=f"{name!r} reads like the id of a record; choose another name.")


def is_part_of_id(text: str) -> bool:
    """Whether a text is the beginning of a record's id, rather than a name."""
    return (
        len(text) >= CID_PART_MIN
        and text.startswith("bafy")
        and set(text) <= set("abcdefghijklmnopqrstuvwxyz234567")
    )


def fits(wanted: str | None, name: str, cid: Cid) -> bool:
    """Whether a task is the one of this name or id (or beginning of an id); None fits every one."""
    return wanted in (None, name) or (is_part_of_id(wanted or "") and str(cid).startswith(wanted or ""))


# ---- building


def build(home: Home, text: Path, *, name: str, kind: str, budget: str, licence: str) -> Built:
    """Build the dataset of a text in a worker of its own, into the node's work directory.

    Args:
        kind: of ``KINDS``; budget: of a gpt task: the shipped task whose settings it takes.
    Raises:
        UsageError: the text is too small or too large for such a task. WorkerError: the worker failed.
    """
    out = home.work / f"task-{os.getpid()}.safetensors"
    job = {"text_path": str(text.absolute()), "out": str(out), "corpus": name, "licence": licence}
    try:
        hello, answer = call_worker("dataset", {**job, "kind": KIND} if kind == KIND else job)
    except WorkerRefused as error:
        out.unlink(missing_ok=True)
        if error.fields.get("kind") != "data":
            raise
        raise UsageError(detail=f"This text cannot become a task: {error.fields['detail']}.") from error
    if kind == KIND:
        settings = dict(answer["task"])
    else:
        if budget not in answer["val_bytes"]:
            out.unlink(missing_ok=True)
            least = tasks.spec(budget)
            raise UsageError(
                detail=f"This text is too small for the budget {budget}: it gives {answer['val_tokens']} validation "
                f"tokens, and {least['blocks'] * least['block_tokens'] + 1} are needed. Give more text, or take "
                f"--budget {' or '.join(sorted(answer['val_bytes'], reverse=True))}."
            )
        settings = tasks.spec(budget, val_bytes=answer["val_bytes"][budget])
    settings |= {"name": name, "corpus": name, "licence": licence}
    return Built(out, settings, hello["lattice" if kind == KIND else "evaluator"], answer)


# ---- publishing


def check_new(hub: Hub, settings: Mapping[str, Any], evaluator: str) -> None:
    """Refuse what cannot be published, before anything is stored.

    Raises:
        UsageError: the mesh has a task of this name, or the settings are no task's.
        NotAllowed: this node does not know yet what it has signed before.
    """
    if not hub.has_written or hub.clock is None:
        raise NotAllowed(
            detail="This node has not joined its mesh yet. Let `borg run` join it once, then publish the task."
        )
    body = _body(settings, Cid.of(b""), evaluator)
    for record in hub.records:
        if record.kind == "task" and record.body.name == body.name:
            raise UsageError(
                detail=f"The mesh has a task {body.name!r} already ({record.cid}); choose another name."
            )


def publish(hub: Hub, data: Cid, settings: Mapping[str, Any], evaluator: str) -> Record:
    """Sign the task whose dataset is the blob ``data``. Raises as ``check_new``."""
    check_new(hub, settings, evaluator)
    record = hub.write(_body(settings, data, evaluator))
    hub.event("task", f"task {record.body.name} is published; its data are {data}", cid=str(record.cid))
    return record


def _body(settings: Mapping[str, Any], data: Cid, evaluator: str) -> Task:
    try:
        make = lattice_task if settings.get("kind") == KIND else task_body
        return Task.from_map(make(settings, data, bytes.fromhex(evaluator)).to_map())
    except (Refused, KeyError, TypeError, ValueError) as error:
        raise UsageError(detail=f"These settings are no task's: {error}.") from error


async def publish_from(hub: Hub, dataset: str, settings: str, evaluator: str) -> str:
    """What a running node does when it is asked to: the record's id.

    Args:
        dataset: a file in this node's work directory; settings: JSON.
    Raises:
        UsageError, NotAllowed: as ``check_new``.
    """
    path = Path(dataset)
    if path.parent != hub.home.work:
        raise UsageError(detail="A task's dataset lies in the node's own work directory.")
    try:
        told = json.loads(settings)
    except ValueError as error:
        raise UsageError(detail=f"The settings are no JSON: {error}.") from error
    if not isinstance(told, dict):
        raise UsageError(detail="The settings of a task are one JSON object.")
    check_new(hub, told, evaluator)
    data = await trio.to_thread.run_sync(partial(hub.blobs.put_file, path, move=True))
    return str(publish(hub, data, told, evaluator).cid)


def hand_in(home: Home, built: Built) -> str:
    """Publish through the running node, or into the log where none runs; the record's id.

    Raises:
        NotFound: no node has ever run here. Others: as ``publish``.
    """
    try:
        found = control_client.ask(
            home.path, "task", timeout_s=PUBLISH_TIMEOUT_S, dataset=str(built.path),
            settings=json.dumps(built.settings), evaluator=built.evaluator,
        )  # fmt: skip
        return str(found)
    except NodeUnreachable:
        return _offline(home, built)
    finally:
        built.path.unlink(missing_ok=True)  # moved away where it was published


def _offline(home: Home, built: Built) -> str:
    with home.lock():
        must_exist(home)
        config = load(home.config)
        hub, _ = setup.open_hub(home, None, epoch_ms=config.epoch_ms, name=config.name)
        try:
            check_new(hub, built.settings, built.evaluator)
            data = hub.blobs.put_file(built.path, move=True)
            record = publish(hub, data, built.settings, built.evaluator)
            trio.run(hub.refresh)  # the tables show it before the next `borg run`
            return str(record.cid)
        finally:
            hub.close()


def must_exist(home: Home) -> None:
    """Raise NotFound where no node has ever been: publishing is no reason to found a mesh."""
    if not home.log.is_file():
        raise NotFound(
            what="node in", name=home.path,
            hint="Make one with `borg init` or `borg run`, or give its directory with --home.",
        )  # fmt: skip
