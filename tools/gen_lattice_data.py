"""Make the two data files of the lattice task: the radicals of all Han characters, and classical Chinese texts.

    python tools/gen_lattice_data.py radicals Unihan_IRGSources.txt
    python tools/gen_lattice_data.py classics PACKAGE

``Unihan_IRGSources.txt`` is a file of the Unicode Character Database (version 15.0; Debian ships it in the package
unicode-data). PACKAGE is the unpacked npm package chinese-poetry 2.0.1. Both results are kept in the repository, since
a lattice is verified only by those who have the same radicals and the same text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORKSPACE = Path(__file__).resolve().parents[1] / "workspace"
DOCUMENT_CHARACTERS = 500  # paragraphs of one chapter are joined up to about this length
CLASSICS = (
    "sishuwujing/mengzi.json", "sishuwujing/daxue.json", "sishuwujing/zhongyong.json", "mengxue/guwenguanzhi.json",
    "mengxue/tangshisanbaishou.json",
)  # fmt: skip


def radicals(source: Path) -> str:
    """Lines ``FIRST LAST RADICAL``: runs of characters (hexadecimal codes) with one Kangxi radical, 1 to 214.

    Of a character with several radicals the first that kRSUnicode names; a simplified radical counts as its whole one.
    """
    found: dict[int, int] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        fields = line.split("\t")
        if len(fields) == 3 and fields[1] == "kRSUnicode":
            number = re.match(r"\d+", fields[2])
            assert number is not None, line
            found[int(fields[0][2:], 16)] = int(number[0])
    runs: list[list[int]] = []
    for code in sorted(found):
        if runs and code == runs[-1][1] + 1 and found[code] == runs[-1][2]:
            runs[-1][1] = code
        else:
            runs.append([code, code, found[code]])
    return "".join(f"{first:X} {last:X} {radical}\n" for first, last, radical in runs)


def _chapters(value: Any) -> Iterator[list[str]]:
    """Every list of paragraphs inside, in order."""
    if isinstance(value, list):
        for item in value:
            yield from _chapters(item)
    elif isinstance(value, dict):
        if isinstance(value.get("paragraphs"), list):
            yield [text for text in value["paragraphs"] if isinstance(text, str)]
        else:
            yield from _chapters(value.get("content"))


def classics(package: Path) -> str:
    """Documents with a blank line between them: chapters, or pieces of long ones."""
    documents: list[str] = []
    for name in CLASSICS:
        for paragraphs in _chapters(json.loads((package / "dist" / name).read_text(encoding="utf-8"))):
            current = ""
            for paragraph in (" ".join(text.split()) for text in paragraphs):
                current += ("\n" if current else "") + paragraph
                if len(current) >= DOCUMENT_CHARACTERS:
                    documents.append(current)
                    current = ""
            documents += [current] if current else []
    return "\n\n".join(dict.fromkeys(documents)) + "\n"


def main(what: str, source: Path) -> None:
    """Write one of the files."""
    makers = {"radicals": radicals, "classics": classics}
    (WORKSPACE / f"{what}.txt").write_text(makers[what](source), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
