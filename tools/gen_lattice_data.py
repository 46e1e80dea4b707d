"""Make the table of the lattice task: the radicals of all Han characters.

    python tools/gen_lattice_data.py Unihan_IRGSources.txt

``Unihan_IRGSources.txt`` is a file of the Unicode Character Database (version 15.0; Debian ships it in the package
unicode-data). The result is kept in the repository, since a lattice is verified only by those who have the same.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parents[1] / "workspace"


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


def main(source: Path) -> None:
    """Write the file."""
    (WORKSPACE / "radicals.txt").write_text(radicals(source), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
