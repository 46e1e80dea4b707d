"""``borg doctor``: what of this machine helps or hinders, each line with its fix."""

from __future__ import annotations

from typing import Any

from spore_borg.cli import frame as cli

MARKS = {"ok": "✓", "warn": "⚠", "bad": "✗"}


@cli.command("doctor")
def command(frame: cli.Frame) -> None:
    """Check this machine; say how to fix what is wrong. Exit code 1: something must be fixed first."""
    from spore_borg.cli import checks

    found = checks.all_checks(frame.home)
    cli.output(frame, {"ok": all(check.level != "bad" for check in found), "checks": found}, render)
    if any(check.level == "bad" for check in found):
        cli.answer_is_no()


def render(value: dict[str, Any]) -> str:
    """One line a check; the fix below it."""
    lines = []
    for check in value["checks"]:
        lines.append(f"{MARKS[check.level]} {check.name}: {check.found}")
        if check.fix:
            lines.append(f"    → {check.fix}")
    return "\n".join(lines)
