"""``borg config``: read and change settings (:mod:`spore_borg.config`)."""

from __future__ import annotations

from typing import Any

import click

from spore_borg import config
from spore_borg.cli import frame as cli

FILE_NAME = "config.toml"


@click.group("config")
def command() -> None:
    """Read and change settings. They are read at the start of `borg run`."""


@cli.command("list")
def list_command(frame: cli.Frame) -> None:
    """Every setting, its value, and where the value comes from."""
    path = frame.home / FILE_NAME
    loaded = config.load(path)
    for warning in loaded.warnings:
        cli.note(f"borg: {warning}")
    settings = [
        {"name": name, "value": value, "source": loaded.sources[name], "help": config.SETTINGS[name].help}
        for name, value in loaded.values().items()
    ]
    cli.output(frame, {"path": path, "settings": settings}, render)


@cli.command("get")
@click.argument("name")
def get_command(frame: cli.Frame, name: str) -> None:
    """One setting's value."""
    known(name)
    value = config.load(frame.home / FILE_NAME).values()[name]
    cli.output(frame, {"name": name, "value": value}, lambda shown: text(shown["value"]))


@cli.command("set")
@click.argument("name")
@click.argument("value")
def set_command(frame: cli.Frame, name: str, value: str) -> None:
    """Change a setting. A running node takes it up when it is started again."""
    stored = config.set_value(frame.home / FILE_NAME, name, value)
    cli.output(frame, {"name": name, "value": stored}, lambda shown: f"{name} = {text(shown['value'])}")


@cli.command("unset")
@click.argument("name")
def unset_command(frame: cli.Frame, name: str) -> None:
    """Give a setting its default again."""
    config.unset_value(frame.home / FILE_NAME, name)
    default = config.SETTINGS[name].default if name in config.SETTINGS else None
    cli.output(frame, {"name": name, "value": default}, lambda shown: f"{name} = {text(shown['value'])}")


for _made in (list_command, get_command, set_command, unset_command):
    command.add_command(_made)


def known(name: str) -> None:
    """Refuse a name that is no setting, with the list of those that are.

    Raises:
        UsageError: there is no such setting.
    """
    if name not in config.SETTINGS:
        from spore_borg.errors import UsageError

        raise UsageError(detail=f"No setting {name}. There are: {', '.join(config.SETTINGS)}.")


def text(value: Any) -> str:
    """A value as `borg config set` takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple | list) else str(value)


def render(value: dict[str, Any]) -> str:
    """The settings as a table, the file's name below."""
    rows = [(row["name"], text(row["value"]), row["source"], row["help"]) for row in value["settings"]]
    return f"{cli.table(['setting', 'value', 'from', 'what it is'], rows)}\n{value['path']}"
