"""``file:PATH``: a file or a directory on this machine. Nothing is copied, and no link is followed out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from spore_borg.learn.errors import SourceError
from spore_borg.learn.sources import files, licences


def fetch(path: Path, *, each: Callable[[str], None]) -> tuple[list[tuple[str, Path]], str, str, str]:
    """Files (name, path), origin, licence and name of what lies at ``path``.

    Raises SourceError: nothing there, nothing of a model in it, or more than the limits.
    """
    path = path.expanduser()
    if not path.exists():
        raise SourceError(
            f"There is no file or directory {path}. Check the path, or write pypi:NAME or hf:ORG/MODEL."
        )
    origin = f"file:{path.resolve()}"
    if path.is_file():
        return [(path.name, path.resolve())], origin, licences.UNKNOWN, path.stem
    found = _walk(path.resolve(), each)
    names = files.select(list(found), None, str(path))
    total = sum(found[name].stat().st_size for name in names)
    if total > files.TOTAL_BYTES_MAX:
        raise SourceError(
            f"{path} has {total >> 30} GiB of a model; at most {files.TOTAL_BYTES_MAX >> 30} GiB are taken."
        )
    taken = [(name, found[name]) for name in names]
    return taken, origin, licence_of(taken), path.resolve().name


def licence_of(taken: list[tuple[str, Path]]) -> str:
    """The licence that a model card or a LICENSE file at the top states, else ``unknown``."""
    said = licences.UNKNOWN
    for name, path in taken:
        if name.lower() == "readme.md":
            said = licences.of_card(path)
            if said != licences.UNKNOWN:
                return said
    for name, path in taken:
        if "/" not in name and name.lower().startswith(("license", "licence")):
            said = licences.of_text(path.read_bytes()[:4_096].decode("utf-8", "replace"))
    return said


def _walk(top: Path, each: Callable[[str], None]) -> dict[str, Path]:
    """Regular files below ``top`` by relative name; a link that leads out of it is left, and told."""
    found: dict[str, Path] = {}
    count = 0
    for here, directories, names in os.walk(top, followlinks=False):
        directories.sort()
        for name in sorted(names):
            count += 1
            if count > files.MEMBERS_MAX:
                raise SourceError(
                    f"{top} has more than {files.MEMBERS_MAX} files; name the model's own directory."
                )
            path = Path(here) / name
            real = path.resolve()
            if not real.is_relative_to(top):
                each(f"left out {path.relative_to(top)}: a link that leads out of the directory")
            elif real.exists() and stat.S_ISREG(real.stat().st_mode):
                found[path.relative_to(top).as_posix()] = real
    return found
