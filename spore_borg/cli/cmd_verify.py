"""``borg verify DIR``: check a proof bundle offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spore_borg.cli import frame as cli


@cli.command("verify")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--no-evaluate", is_flag=True, help="Skip the evaluation of the weights (records and digests only)."
)
def command(frame: cli.Frame, directory: Path, no_evaluate: bool) -> None:
    """Check a result that `borg frontier --fetch` wrote, without any network.

    Signatures, lineage, evidence and digests, then the weights are evaluated again. Exit code 1: it does not hold.
    """
    from spore_borg.node import bundle

    value = bundle.verify(directory, evaluate=not no_evaluate)
    cli.output(frame, value, render)
    if not value["ok"]:
        cli.answer_is_no()


def render(value: dict[str, Any]) -> str:
    """One line a check, the verdict last."""
    lines = [(("✓" if check["ok"] else "✗"), check["name"], check["detail"]) for check in value["checks"]]
    verdict = "The bundle holds." if value["ok"] else "The bundle does not hold."
    return f"{cli.table(['', 'check', 'what was found'], lines)}\n{verdict}"
