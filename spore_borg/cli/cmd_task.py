"""``borg task``: the tasks of the mesh, and how to make one of one's own text."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import NotFound, UsageError

if TYPE_CHECKING:
    from explorer.db import Db
    from spore_borg.node.own_tasks import Survey

KINDS = ("gpt", "lattice")
BUDGETS = ("pico", "nano", "micro")
EVALUATORS = {"absorption": "absorber", "lattice": "lattice"}  # kind → digest; all others: evaluator
PENDING = "SELECT cid FROM record WHERE kind = 'task' AND round IS NULL ORDER BY seq LIMIT 100"
BEST = """SELECT f.class, f.cid, f.metric, f.status FROM frontier f WHERE f.task = ?
  AND f.step = (SELECT max(step) FROM frontier WHERE task = f.task AND class = f.class) ORDER BY f.class"""


@click.group("task")
def command() -> None:
    """List the mesh's tasks, look at one, or make one of your own text."""


@cli.command("list")
def list_command(frame: cli.Frame) -> None:
    """Every task: what it measures, on which data, and its best results.

    `verifies here`: whether this installation has the task's evaluator, so that its node can check results.
    """
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        value = {"tasks": rows(db, frame.home)}
    cli.output(frame, value, render)


@cli.command("show")
@click.argument("task", metavar="NAME|CID")
def show_command(frame: cli.Frame, task: str) -> None:
    """One task: its definition, its data, whether they are here, its best results."""
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        found = rows(db, frame.home)
    names = [row for row in found if row["name"] == task] or [
        row for row in found if len(task) >= 8 and row["cid"].startswith(task)
    ]
    if not names:
        raise NotFound(what="task", name=task, hint="`borg task list` shows the mesh's tasks.")
    if len(names) > 1:
        raise UsageError(
            detail=f"{task!r} is the name of several tasks; give the id: {', '.join(row['cid'] for row in names)}."
        )
    cli.output(frame, names[0], render_one)


@cli.command("new")
@click.option(
    "--text",
    "text",
    metavar="PATH",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A UTF-8 text file, or a directory whose .txt and .md files are taken (hidden ones and links are not).",
)
@click.option("--name", metavar="NAME", required=True, help="The task's name, for `borg run --task NAME`.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default=KINDS[0],
    show_default=True,
    help="What learns the text: a small GPT, or a lattice of characters.",
)
@click.option(
    "--budget", type=click.Choice(BUDGETS), help="Of a GPT: what one run may cost  [default: nano]."
)
@click.option(
    "--licence",
    metavar="TEXT",
    default="unstated",
    show_default=True,
    help="The text's licence, in your words, for those who fetch it.",
)
@click.option("--yes", is_flag=True, help="Publish without asking.")
def new_command(
    frame: cli.Frame, text: Path, name: str, kind: str, budget: str | None, licence: str, yes: bool
) -> None:
    """Make a task of your own text, which the whole mesh can then work on.

    Whoever runs or verifies an experiment fetches the text, so it is no secret any more. Needs about half a megabyte
    (pico, lattice) to two (nano, micro). Without a running node the task is kept for the next `borg run`. Exit code 1:
    you said no.
    """
    from spore_borg.home import Home
    from spore_borg.node import own_tasks

    if kind == "lattice" and budget is not None:
        raise UsageError(detail="A lattice has no budget to choose; leave --budget out.")
    home = Home(frame.home)
    own_tasks.must_exist(home)
    own_tasks.check_words(name, licence)
    check_name(frame.home, name)
    found = own_tasks.survey(text)
    agree(found, name, licence, yes=yes)
    cli.note("Building the dataset …")
    built = own_tasks.build(
        home.create(), text, name=name, kind=kind, budget=budget or "nano", licence=licence
    )
    size_bytes = built.path.stat().st_size
    cid = own_tasks.hand_in(home, built)
    units = "characters" if kind == "lattice" else "tokens"
    value = {
        "cid": cid, "name": name, "kind": kind, "licence": licence, "files": found.files,
        "text_bytes": found.size_bytes, "data_bytes": size_bytes, "unit": units,
        "train": built.facts[f"train_{units}"], "held_out": built.facts[f"val_{units}"],
        "next": f"borg run --task {shlex.quote(name)}",
    }  # fmt: skip
    cli.output(frame, value, render_new)


def check_name(home: Path, name: str) -> None:
    """Refuse a name that the mesh has already, before any work. The node looks again when it publishes.

    Raises:
        UsageError: it has.
    """
    from spore_borg.cli import reading

    if (home / "views.sqlite").exists():
        with reading.views(home) as db:
            taken = [row["cid"] for row in rows(db, home) if row["name"] == name]
        if taken:
            raise UsageError(
                detail=f"The mesh has a task {name!r} already ({taken[0]}); choose another name."
            )


def agree(found: Survey, name: str, licence: str, *, yes: bool) -> None:
    """Say plainly what publishing means, and go on only with a yes.

    Raises:
        UsageError: there is no terminal to ask on. Exit code 1: the answer is no.
    """
    files = f"{found.files} file{'s' if found.files > 1 else ''}"
    cli.note(
        f"Task {name}: {files}, {found.size_bytes:,} bytes, {found.characters:,} characters; licence: {licence}.\n"
        "Once it is published, every node of this mesh, also one that joins later, can fetch the whole text, read it, "
        "keep it and pass it on. Nothing calls it back."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            detail="There is no terminal to ask on. Give --yes if the text may go to every peer."
        )
    if not click.confirm("Publish it?", err=True):
        cli.note("Nothing was published.")
        cli.answer_is_no()


# ---- reading


def rows(db: Db, home: Path) -> list[dict[str, Any]]:
    """Every task as JSON: those of the page ``/tasks``, then those that no round has acknowledged yet."""
    from explorer import pages
    from spore_borg.cli import reading
    from spore_borg.runner.evaluators import digests

    ours = digests()
    found = []
    for task in reading.page_value(pages.tasks(db))["tasks"]:
        cid = task["brief"]["cid"]
        best = [dict(row) for row in db.connection.execute(BEST, (cid,))]
        found.append(row_of(cid, task["body"], task["author"]) | {"acknowledged": True, "frontier": best})
    for (cid,) in db.connection.execute(PENDING).fetchall():
        found += [one | {"acknowledged": False, "frontier": []} for one in pending(db, cid)]
    for row in found:
        row["verifies_here"] = row["evaluator"] == ours[EVALUATORS.get(row["kind"], "evaluator")]
        row["data_here"] = (home / "blobs" / row["data"]).is_file()
    return found


def pending(db: Db, cid: str) -> list[dict[str, Any]]:
    """A task that is only in the log, as a list of one; empty if its record cannot be had."""
    from spore_borg.records.cid import Cid
    from spore_borg.records.envelope import parse
    from spore_borg.records.keys import node_name

    found = db.raw(bytes(Cid.parse(cid)))
    if found is None:
        return []
    record = parse(found[0])
    body = {**record.body.to_map(), "data": str(record.body.data), "evaluator": record.body.evaluator.hex()}
    return [row_of(cid, body, node_name(record.author))]


def row_of(cid: str, body: dict[str, Any], author: str) -> dict[str, Any]:
    """A task's record as ``list`` and ``show`` tell it."""
    spec = body.get("spec") or {}
    kind = spec.get("kind", KINDS[0])
    return {
        "cid": cid, "name": body["name"], "kind": kind, "author": author, "metric": body["metric"],
        "unit": str(body["unit"]).removeprefix("nano-"), "sigma": body["sigma"], "gain_min": body["gain_min"],
        "budget": None if kind == "absorption" else body["budget_flops"],
        "budget_unit": "character" if kind == "lattice" else "FLOP", "data": body["data"],
        "corpus": str(spec.get("corpus", "")), "licence": str(spec.get("licence", "")),
        "evaluator": body["evaluator"], "definition": body,
    }  # fmt: skip


# ---- showing


def render(value: dict[str, Any]) -> str:
    """The table of tasks."""
    from explorer import show

    headings = [
        "task", "metric", "unit", "budget>", "best", "data", "licence of the data", "verifies here", "record",
    ]  # fmt: skip
    return cli.table(
        headings,
        [
            (
                row["name"], row["metric"], row["unit"], spends(row), best(row), data(row),
                show.plain(row["licence"], 40) or "not said", "yes" if row["verifies_here"] else "no", row["cid"],
            )
            for row in value["tasks"]
        ],
        empty="No task yet. `borg run` publishes one; `borg task new` makes one of your own text.",
    )  # fmt: skip


def spends(row: dict[str, Any]) -> str:
    """What a run may cost."""
    from explorer import show

    return "–" if row["budget"] is None else show.cost(row["budget"], row["budget_unit"])


def best(row: dict[str, Any]) -> str:
    """The best result of each class, or what is missing."""
    from explorer import show

    if row["kind"] == "absorption":
        return "see `borg state`"
    if not row["acknowledged"]:
        return "waits for acknowledgement"
    told = [
        f"{show.metric(item['metric'])} {item['class']}" + (" solo" if item["status"] == "solo" else "")
        for item in row["frontier"]
    ]
    return ", ".join(told) or "none yet"


def data(row: dict[str, Any]) -> str:
    """What the data are called, and whether they are here."""
    return f"{row['corpus'] or row['data'][:12] + '…'} ({'here' if row['data_here'] else 'not here'})"


def render_one(row: dict[str, Any]) -> str:
    """One task, its definition below."""
    from explorer import show

    definition = row["definition"]
    verifies = "yes" if row["verifies_here"] else "no: its evaluator is of another version of spore-borg"
    told = [
        ("task", row["name"]), ("record", row["cid"]), ("author", row["author"]), ("kind", row["kind"]),
        ("metric", f"{row['metric']}, lower is better; {row['unit']}"),
        ("noise σ of one run", show.metric(row["sigma"])), ("smallest gain", show.metric(row["gain_min"])),
        ("budget of a run", spends(row)),
        ("data", f"{data(row)} {row['data']}"), ("licence of the data", row["licence"] or "not said"),
        ("evaluator", row["evaluator"]), ("verifies here", verifies), ("best", best(row)),
        *((f"  {name}", value) for name, value in sorted(definition.get("spec", {}).items())
          if name not in ("corpus", "licence", "kind")),
        *((f"  baseline {name}", value) for name, value in sorted(definition.get("baseline", {}).items())),
    ]  # fmt: skip
    return cli.pairs(told)


def render_new(value: dict[str, Any]) -> str:
    """What was published, and what to do with it."""
    return cli.pairs([
        ("task", value["name"]), ("record", value["cid"]), ("licence", value["licence"]),
        ("text", f"{value['files']} file(s), {value['text_bytes']:,} bytes; as data {value['data_bytes']:,} bytes"),
        ("to learn from", f"{value['train']:,} {value['unit']}"),
        ("held out", f"{value['held_out']:,} {value['unit']}"), ("next", value["next"]),
    ])  # fmt: skip


for _made in (list_command, show_command, new_command):
    command.add_command(_made)
