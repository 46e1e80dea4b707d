"""``pypi:NAME[==V][:PATH]``: the files of a model out of a wheel or sdist; nothing of the package runs.

Which indexes, mirrors and certificates are used is pip's configuration and nobody else's (``pip_client``).
Sources: PEP 440 (versions), PEP 503 (names), PEP 592 (yanked), PEP 691 (index).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from spore_borg.learn.errors import SourceError
from spore_borg.learn.sources import archives, files

LIST_TIMEOUT_S = 180
GET_TIMEOUT_S = 3_600
HASHES = ("sha256", "sha384", "sha512")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Offer:
    """One file of a project: where it stands in the index's list, its name, version, and how much it is wanted."""

    index: int
    filename: str
    version: Version
    kind: int
    hash_name: str
    hash: str
    yanked: bool


def fetch(
    rest: str, out_dir: Path, *, offline: bool, each: Callable[[str], None]
) -> tuple[list[tuple[str, Path]], str, str, str]:
    """Fetch a project's newest fitting file and unpack what belongs to a model.

    Args:
        rest: the source without its ``pypi:``.
        out_dir: an empty directory.
        offline: look only where pip needs no network (find-links and indexes on this machine).
        each: told what is happening.
    Returns:
        Files, origin, licence, name.
    Raises:
        SourceError: no such project, version or file, or an archive that is refused.
    """
    requirement, _, path = rest.partition(":")
    name, specifier = _requirement(requirement)
    offers = _offers(name, offline=offline)
    chosen = choose(name, specifier, offers)
    each(f"fetch {chosen.filename}")
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".download-") as scratch:
        archive = Path(scratch) / chosen.filename
        _ask(
            "get",
            name,
            str(chosen.index),
            chosen.filename,
            str(archive),
            str(files.DOWNLOAD_BYTES_MAX),
            offline=offline,
        )
        digest = _checked(archive, chosen)
        each(f"unpack {chosen.filename}")
        where = chosen.filename
        names, licence = archives.unpack(
            archive, out_dir, lambda all_names: files.select(all_names, path or None, where)
        )
    origin = (
        f"pypi:{name}=={chosen.version}"
        + (f":{path}" if path else "")
        + f" ({chosen.filename}, sha256 {digest})"
    )
    return [(found, out_dir / found) for found in names], origin, licence, name


def choose(name: str, specifier: SpecifierSet, offers: list[Offer]) -> Offer:
    """The newest version that fits (yanked and pre-releases only if nothing else does), a pure wheel before any other
    wheel before an sdist: weights do not depend on the platform. Raises SourceError."""
    wanted = canonicalize_name(name)
    if not offers:
        raise SourceError(
            f"No index that pip uses has a project {name!r} with wheels or sdists. Check the name, `pip config list`, "
            "and whether this machine reaches the index; or give a file that you have with file:PATH."
        )
    versions = {offer.version for offer in offers if not offer.yanked}
    fitting = list(specifier.filter(versions)) or list(specifier.filter({o.version for o in offers}))
    if not fitting:
        newest = ", ".join(str(version) for version in sorted(versions, reverse=True)[:5])
        raise SourceError(
            f"{wanted} has no version {specifier}; there is {newest or 'none that is not yanked'}."
        )
    version = max(fitting)
    return min(
        (o for o in offers if o.version == version),
        key=lambda o: (o.kind, o.yanked, o.hash == "", o.filename, o.index),
    )


def offer(name: str, index: int, entry: dict[str, Any]) -> Offer | None:
    """An index entry as an offer; None if it is no wheel or sdist of this project."""
    filename = str(entry["filename"])
    kind: int
    try:
        if filename.endswith(".whl"):
            project, version, _, tags = parse_wheel_filename(filename)
            kind = 0 if any(tag.abi == "none" and tag.platform == "any" for tag in tags) else 1
        else:
            if filename.endswith((".tar.bz2", ".tar.xz", ".tgz")):
                stem = re.sub(r"\.(tar\.bz2|tar\.xz|tgz)$", ".tar.gz", filename)
            else:
                stem = filename
            project, version = parse_sdist_filename(stem)
            kind = 2
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    if project != canonicalize_name(name) or Path(filename).name != filename:
        return None
    hash_name, digest = (entry.get("hash") or [None, None])[:2]
    return Offer(index, filename, version, kind, hash_name or "", digest or "", bool(entry.get("yanked")))


def _requirement(text: str) -> tuple[str, SpecifierSet]:
    found = _NAME.match(text)
    try:
        specifier = SpecifierSet(text[found.end() :].strip()) if found else None
    except InvalidSpecifier:
        specifier = None
    if found is None or specifier is None:
        raise SourceError(
            f"pypi:{text[:80]} names no package. Write pypi:NAME, pypi:NAME==VERSION or pypi:NAME==VERSION:PATH."
        )
    return found[0], specifier


def _offers(name: str, *, offline: bool) -> list[Offer]:
    answer = _ask("list", name, offline=offline)
    found = (offer(name, index, entry) for index, entry in enumerate(answer.get("files", [])))
    return [one for one in found if one is not None]


def _ask(*args: str, offline: bool) -> dict[str, Any]:
    """Ask pip in a process of its own. Raises SourceError with pip's last words."""
    env = dict(os.environ)
    if offline:
        # pip then looks only into find-links; those on a network fail at once.
        env["PIP_NO_INDEX"] = "1"
    env.setdefault("PIP_RETRIES", "2")
    command = [sys.executable, "-I", str(Path(__file__).with_name("pip_client.py")), *args]
    timeout_s = LIST_TIMEOUT_S if args[0] == "list" else GET_TIMEOUT_S
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"pip did not answer within {timeout_s} s. Check the network and `pip config list`."
        ) from error
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"error": "pip ended without an answer"}
    if type(answer) is not dict or "differs" in answer:
        reason = str(answer.get("differs")) if type(answer) is dict else ""
        hint = (
            "`python -m ensurepip` installs it"
            if "No module named 'pip" in reason
            else "`pip install --upgrade pip`"
        )
        raise SourceError(f"This Python's pip cannot be asked for a package's files ({reason}); {hint}.")
    if "error" in answer:
        words = " ".join(done.stderr.split())[-300:]
        raise SourceError(f"{args[1]} cannot be fetched: {answer['error']}. {words}".strip())
    return answer


def _checked(archive: Path, chosen: Offer) -> str:
    """The archive's sha256, after its bytes were compared with the index's digest."""
    hashes = {name: hashlib.new(name) for name in {"sha256", chosen.hash_name} if name in HASHES}
    with archive.open("rb") as raw:
        while piece := raw.read(archives.PIECE_BYTES):
            for one in hashes.values():
                one.update(piece)
    if chosen.hash_name in HASHES and hashes[chosen.hash_name].hexdigest() != chosen.hash.lower():
        raise SourceError(
            f"{chosen.filename} has another {chosen.hash_name} than its index says; it was thrown away. Try again, "
            "and if it stays so, do not trust this index."
        )
    return hashes["sha256"].hexdigest()
