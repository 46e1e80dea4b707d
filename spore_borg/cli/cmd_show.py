"""``borg show CID``: one record, decoded, and where it stands."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.cli import reading

ATTESTATIONS = "SELECT * FROM attestation WHERE target = :cid ORDER BY id LIMIT 500"
LEDGER = (
    "SELECT node, round, rule, amount, total, sentence FROM ledger WHERE cause = :cid ORDER BY id LIMIT 500"
)
TEXT_MAX = 100  # characters of one value in the text form; --json has all of it


@cli.command("show")
@click.argument("cid")
def command(frame: cli.Frame, cid: str) -> None:
    """What a record says, where it stands, and the evidence on it.

    CID may be the beginning of the id, or its end written with … as the tables show it.
    """
    from spore_borg.records import canonical

    with reading.views(frame.home) as views:
        row = reading.record(views, cid)
        value: dict[str, Any] = {
            "record": row,
            "experiment": reading.experiment(views, row["cid"]),
            "attestations": reading.rows(views, ATTESTATIONS, cid=row["cid"]),
            "ledger": reading.rows(views, LEDGER, cid=row["cid"]),
        }
    value["decoded"] = cli.to_plain(canonical.decode(reading.raw_record(frame.home, row["cid"])))
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """Blocks: the record, where it stands, evidence, ledger."""
    from explorer import show

    parts = [cli.pairs(flat(value["decoded"]))]
    experiment = value["experiment"]
    if experiment is not None:
        standing = ("outcome", "verdict", "stage", "reason", "round_ack", "round_settled", "frontier_why")
        parts.append("where it stands\n" + cli.pairs((name, experiment[name]) for name in standing))
        parts.append(
            "evidence of others\n"
            + cli.table(
                ["author", "tier", "word", "jury", "what was recomputed", "Δ>", "tolerance>"],
                [
                    (
                        show.short(row["author"]),
                        row["tier"],
                        row["word"],
                        "jury" if row["jury"] else "",
                        show.plain(row["probe"], 80),
                        row["delta"],
                        row["tolerance"],
                    )
                    for row in value["attestations"]
                ],
                empty="none yet",
            )
        )
    if value["ledger"]:
        lines = [(show.short(e["node"]), show.amount(e["amount"]), e["sentence"]) for e in value["ledger"]]
        parts.append("ledger entries it caused\n" + cli.table(["node", "trust>", "why"], lines))
    return "\n\n".join(parts)


def flat(value: Any, path: str = "") -> list[tuple[str, object]]:
    """A nested value as ``a.b.c`` paths and short leaves."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flat(item, f"{path}.{key}" if path else key)]
    text = str(value)
    return [(path, text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}… ({len(text):,} characters)")]
