"""``borg version``: our version and those of what decides numbers and signatures."""

from __future__ import annotations

import platform
import sqlite3
from importlib import metadata

from spore_borg import __version__
from spore_borg.cli import frame as cli

PARTS = ("torch", "numpy", "safetensors", "pynacl", "cbor2", "trio", "starlette")


@cli.command("version")
def command(frame: cli.Frame) -> None:
    """The version of spore_borg and of what it builds on."""
    value = {"spore-borg": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PARTS:
        try:
            value[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            value[name] = "not installed"
    cli.output(frame, value, lambda shown: cli.pairs(shown.items()))
