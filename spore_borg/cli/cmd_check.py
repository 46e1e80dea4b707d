"""``borg check``: read the whole log and every blob again, and say what is damaged."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli


@cli.command("check")
@click.option("--no-blobs", is_flag=True, help="Only the record log.")
def command(frame: cli.Frame, no_blobs: bool) -> None:
    """Check the record log and the blobs for damage. Changes nothing. Exit code 1: something is damaged."""
    from spore_borg.node import rebuild

    value = rebuild.check(frame.home, blobs=not no_blobs)
    cli.output(frame, value, render)
    if not value["ok"]:
        cli.answer_is_no()


def render(value: dict[str, Any]) -> str:
    """Counts, then one line for each damage."""
    counts = cli.pairs((name, item) for name, item in value.items() if name not in ("ok", "damage"))
    damage = "\n".join(f"✗ {line}" for line in value["damage"])
    return f"{counts}\n{damage or '✓ no damage found'}"
