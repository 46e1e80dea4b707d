"""``borg show CID``: one record, decoded, and where it stands."""

from __future__ import annotations

import base64
from typing import Any

import click

from spore_borg.cli import frame as cli

TEXT_MAX = 100  # characters of one value in the text form; --json has all of it
LIST_MAX = 8  # a longer list is one line
MARKS = {"done": "✓", "now": "▸", "todo": "·", "bad": "✗", "skipped": "–"}


@cli.command("show")
@click.argument("cid")
def command(frame: cli.Frame, cid: str) -> None:
    """What a record says, where it stands, and the evidence on it.

    CID may be the beginning of the id, or its end written with … as the tables show it.
    """
    from explorer import pages
    from spore_borg.cli import reading

    with reading.views(frame.home) as db:
        value = reading.page_value(pages.record(db, reading.record_id(db, cid)))
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """Blocks: the record, where it stands, evidence, ledger."""
    from explorer import show

    record, experiment = value["record"], value["experiment"]
    signed = value["signed"]
    decoded = signed["decoded"] if signed else {"note": "its signed bytes are not in this directory"}
    parts = [cli.pairs([("record", record["cid"]), *flat(decoded)])]
    if experiment is not None:
        stands = [
            (MARKS.get(step["state"], "?"), step["name"], step["sentence"]) for step in experiment["stands"]
        ]
        words = f"author's word: {record['outcome']}; others' word: {record['verdict']}"
        parts.append(f"where it stands ({words})\n" + cli.table(["", "step", "what is known"], stands))
        lines = [
            (
                cli.who(row["author"]),
                row["hardware_class"],
                row["tier"],
                row["word"],
                "jury" if row["jury"] else "",
                show.plain(row["probe"], 80),
                row["delta"],
                row["tolerance"],
            )
            for row in experiment["attestations"]
        ]
        headings = ["author", "class", "tier", "word", "", "what was recomputed", "Δ>", "tolerance>"]
        parts.append("evidence of others\n" + cli.table(headings, lines, empty="none yet"))
    if value["ledger"]:
        entries = [
            (cli.who(row["node"]), show.amount(row["amount"]), row["sentence"]) for row in value["ledger"]
        ]
        parts.append("ledger entries it caused\n" + cli.table(["node", "trust>", "why"], entries))
    return "\n\n".join(parts)


def flat(value: Any, path: str = "") -> list[tuple[str, object]]:
    """A DAG-JSON value as ``a.b.c`` paths and short leaves; links as ids, bytes as hex."""
    if isinstance(value, dict) and set(value) == {"/"}:
        inside = value["/"]
        value = base64.b64decode(inside["bytes"] + "==").hex() if isinstance(inside, dict) else inside
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flat(item, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and len(value) <= LIST_MAX:
        return [pair for number, item in enumerate(value) for pair in flat(item, f"{path}[{number}]")]
    text = str(value)
    return [(path, text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}… ({len(text):,} characters)")]
