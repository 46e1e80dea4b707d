"""What a package says about its licence, and whether a model under it may be absorbed without asking.

Sources: core metadata of Python packages (License-Expression, License, classifiers), model cards of a hub.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser
from pathlib import Path

UNKNOWN = "unknown"
LICENCE_CHARS_MAX = 120

_OPEN_NAMES = (
    "0bsd afl-3.0 agpl-3.0 apache apache-2.0 apache2 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 cc-by-3.0 "
    "cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 ecl-2.0 epl-2.0 eupl-1.2 gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 "
    "lgpl-3.0 mit mpl-2.0 odc-by pddl public-domain psf-2.0 unlicense wtfpl zlib"
)
_OPEN = frozenset(_OPEN_NAMES.split())
_OPEN_WORDS = re.compile(
    r"^(the )?(mit|isc|apache|bsd|gnu|mozilla|python software foundation|public domain|unlicen[sc]e|cc0)\b",
    re.I,
)
_NO_TRADE = re.compile(
    r"non.?commercial|\bnc\b|-nc-|-nc$|research.only|academic.only|no.?derivatives|-nd\b|proprietary"
    r"|all rights reserved",
    re.I,
)


def licence_note(licence: str) -> str | None:
    """What to tell the user before a model under this licence is absorbed; None if there is nothing to tell.

    The caller decides: models without a licence, or with one that forbids commerce, need the user's word.
    """
    said = licence.strip()
    if not said or said.lower() in (UNKNOWN, "none", "other", "see license", "license"):
        return (
            "The source names no licence, so nobody has permission to pass the model on. "
            "Absorb it only if you know its terms."
        )
    if _NO_TRADE.search(said):
        return f"The licence {said!r} restricts commerce or changes. Absorb the model only if its terms allow that."
    parts = [part for part in re.split(r"\s+(?:and|or|with)\s+|[()\s/,;]+", said.lower()) if part]
    known = all(re.sub(r"-(only|or-later)$", "", part) in _OPEN for part in parts)
    if known or _OPEN_WORDS.search(said):
        return None
    return f"The licence {said!r} is not one that is known here. Read its terms before you absorb the model."


def of_metadata(text: str) -> str:
    """The licence that a METADATA or PKG-INFO file states, else ``unknown``."""
    headers = HeaderParser().parsestr(text[: 4 << 20])
    for field in ("License-Expression", "License"):
        said = (headers.get(field) or "").strip()
        first = said.splitlines()[0].strip() if said else ""
        # Some packages put the whole text of the licence there; a classifier then says it shorter.
        if first and first.upper() != "UNKNOWN" and len(said) <= LICENCE_CHARS_MAX:
            return first
        if first and (found := of_text(said)) != UNKNOWN:
            return found
    classified = [
        line.split("::")[-1].strip()
        for line in headers.get_all("Classifier") or []
        if line.startswith("License ::") and line.count("::") >= 1
    ]
    return " AND ".join(dict.fromkeys(classified))[:LICENCE_CHARS_MAX] or UNKNOWN


def of_card(path: Path) -> str:
    """The licence in the front matter of a model card (README.md), else ``unknown``. Reads one line, no YAML."""
    try:
        text = path.read_bytes()[: 1 << 20].decode("utf-8", "replace")
    except OSError:
        return UNKNOWN
    front = re.match(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", text, re.S)
    if not front:
        return UNKNOWN
    found = {}
    for key in ("license", "license_name"):
        line = re.search(rf"^{key}:[ \t]*(.+)$", front[1], re.M)
        if line:
            found[key] = line[1].strip().strip("\"'")
    said = found.get("license", UNKNOWN)
    if said == "other":
        said = found.get("license_name", said)
    return said[:LICENCE_CHARS_MAX] or UNKNOWN


def of_text(text: str) -> str:
    """The licence whose well-known first words stand in a LICENSE file, else ``unknown``."""
    start = " ".join(text[:2_000].split()).lower()
    for words, name in (
        ("apache license version 2.0", "Apache-2.0"),
        ("mozilla public license version 2.0", "MPL-2.0"),
        ("gnu affero general public license version 3", "AGPL-3.0"),
        ("gnu lesser general public license version 3", "LGPL-3.0"),
        ("gnu general public license version 3", "GPL-3.0"),
        ("permission is hereby granted, free of charge", "MIT"),
    ):
        if words in start.replace(",", "") or words in start:
            return name
    return UNKNOWN
