"""``borg diff CID [CID]``: what an experiment changed in the recipe, against its base or another one."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import NotAllowed


@cli.command("diff")
@click.argument("cid")
@click.argument("other", required=False)
def command(frame: cli.Frame, cid: str, other: str | None) -> None:
    """Recipe fields that differ: from CID to OTHER, or from CID's base to CID."""
    from spore_borg.cli import reading

    with reading.views(frame.home) as views:
        first = experiment(views, cid)
        if other is None:
            before, after, changed = first["base"], first, first["changed"]
        else:
            second = experiment(views, other)
            before, after = first["cid"], second
            changed = differences(first["recipe"], second["recipe"])
            after = {**second, "gain": None}
            if first["task"] == second["task"] and None not in (first["metric"], second["metric"]):
                after["gain"] = first["metric"] - second["metric"]
    value = {"before": before, "after": after["cid"], "gain": after["gain"], "changed": changed}
    cli.output(frame, value, render)


def experiment(db: Any, text: str) -> dict[str, Any]:
    """The experiment of that id.

    Raises:
        NotAllowed: the record is of another kind.
    """
    from spore_borg.cli import reading

    found = reading.experiment(db, reading.record_id(db, text))
    if found is None:
        raise NotAllowed(detail=f"{text} is a record of another kind; only experiments have a recipe.")
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> list[list[object]]:
    """``[[field, before, after], …]`` of two recipes, by field name."""
    names = sorted(set(before) | set(after))
    return [
        [name, before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)
    ]


def render(value: dict[str, Any]) -> str:
    """The fields as a table, the gain below."""
    from explorer import show

    lines = [
        (field, show.recipe_value(field, old), show.recipe_value(field, new))
        for field, old, new in value["changed"]
    ]
    text = cli.table(["field", "before", "after"], lines, empty="The recipes are equal.")
    if value["before"] is None:
        text = "This experiment has no base: it is where its lineage begins."
    return text if value["gain"] is None else f"{text}\ngain {show.gain(value['gain'])} (positive is better)"
