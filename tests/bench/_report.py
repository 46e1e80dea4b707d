"""Medians, spread, and the table: on the terminal and in docs/reference/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench._rows import ROWS, Row


@dataclass
class Measured:
    """The repetitions of one row on one side."""

    values: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def text(self, digits: int) -> str:
        """``median (least–most, n)``; one repetition has no spread, and says so."""
        shown = f"{self.median:,.{digits}f}"
        if len(self.values) == 1:
            return f"{shown} (once)"
        return (
            f"{shown} ({min(self.values):,.{digits}f}–{max(self.values):,.{digits}f}, {len(self.values)} ×)"
        )


@dataclass
class Report:
    """Everything that one run of the bench found.

    Attributes:
        ours, peer: by row. about: the machine and the run. missing: what could not be measured, and why.
    """

    about: dict[str, str]
    ours: dict[str, Measured] = field(default_factory=dict)
    peer: dict[str, Measured] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(self, side: str, found: Mapping[str, Any]) -> None:
        """Take in one line of a script.

        Raises:
            KeyError: a row that ``_rows`` does not declare.
        """
        name = found["row"]
        if name not in ROWS:
            raise KeyError(f"row {name} is not declared in tests/bench/_rows.py")
        values = self.ours if side == "ours" else self.peer
        values[name] = Measured([float(value) for value in found["values"]], str(found.get("note", "")))

    def keep(self, earlier: Mapping[str, Any], fresh: Sequence[str]) -> None:
        """Take over the rows of an earlier run that this one has not measured, and say so.

        Args:
            earlier: of ``to_json``. fresh: the scripts that ran now: their failures are of now.
        """
        for name, row in earlier["rows"].items():
            for side, mine in (("ours", self.ours), ("spore", self.peer)):
                if name in ROWS and name not in mine and row[side] is not None:
                    mine[name] = Measured(**row[side])
        self.missing += [line for line in earlier["missing"] if not any(name in line for name in fresh)]
        parts = (str(earlier["about"].get(key, "")) for key in ("date", "machine", "duration"))
        self.about[f"all but {', '.join(fresh)}"] = "measured just before: " + "; ".join(parts)

    def lines(self) -> list[tuple[str, str, str, str, str, str, str]]:
        """Title, unit, ours, peer, ratio, target and whether it is reached, of every measured row."""
        return [self._line(name, row) for name, row in ROWS.items() if name in self.ours or name in self.peer]

    def _line(self, name: str, row: Row) -> tuple[str, str, str, str, str, str, str]:
        ours, peer = self.ours.get(name), self.peer.get(name)
        ratio, reached = "", ""
        if ours is not None and peer is not None and ours.median > 0 and peer.median > 0:
            better = ours.median / peer.median if row.more_is_better else peer.median / ours.median
            ratio = f"{better:,.0f} ×" if better >= 20 else f"{better:.2g} ×"
        if ours is not None and row.target:
            met = row.met(ours.median, None if peer is None else peer.median)
            reached = {True: "yes", False: "**no**", None: "?"}[met]
        shown = [("–" if one is None else one.text(row.digits)) for one in (ours, peer)]
        return row.title, row.unit, *shown, ratio, row.target, reached  # type: ignore[return-value]

    def to_json(self) -> dict[str, Any]:
        """Everything, with all repetitions."""
        return {
            "about": self.about,
            "missing": self.missing,
            "rows": {
                name: {
                    "title": row.title, "unit": row.unit, "target": row.target,
                    "ours": None if (ours := self.ours.get(name)) is None else vars(ours),
                    "spore": None if (peer := self.peer.get(name)) is None else vars(peer),
                }
                for name, row in ROWS.items() if name in self.ours or name in self.peer
            },
        }  # fmt: skip

    def text(self) -> str:
        """For the terminal: two lines a row."""
        found = []
        for title, unit, ours, peer, ratio, target, reached in self.lines():
            against = "" if peer == "–" else f"   Spore {peer}" + (f"   {ratio} better" if ratio else "")
            goal = f"   target {target}: {reached.strip('*')}" if target else ""
            found.append(f"{title}\n    {ours} {unit}{against}{goal}")
        return "\n".join([*found, *(f"not measured: {line}" for line in self.missing)])

    def markdown(self, command: str) -> str:
        """The page of the reference."""
        head = [
            f"<!-- Made by `{command}`; run that instead of editing. -->\n",
            "# Benchmarks\n",
            f"`{command}` printed this. Each cell is the median, then the least, the most and how many",
            "repetitions. CPU seconds, bytes and counts are dependable; wall time is for orientation: the machine was",
            "shared. Spore is the package `sporemesh`, driven through its own classes in the same run on as many",
            "experiments of four authors, each with the diff of one setting of the script that it ships. How each row",
            "is measured stands at the head of the script in `tests/bench` that measures it.\n",
            *(f"- {name}: {value}" for name, value in self.about.items()),
            "",
            "| what | unit | ours | Spore 0.3.9 | better by | target | reached |",
            "|---|---|---:|---:|---:|---|---|",
        ]
        rows = ["| " + " | ".join(line) + " |" for line in self.lines()]
        notes = ["", "## Notes\n"]
        for name, row in ROWS.items():
            for side, values in (("ours", self.ours), ("Spore", self.peer)):
                if name in values and values[name].note:
                    notes.append(f"- {row.title} ({side}): {values[name].note}")
        notes += [f"- Not measured: {line}" for line in self.missing]
        return "\n".join([*head, *rows, *notes, ""])


def about() -> dict[str, str]:
    """The machine and the versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {model}; load {os.getloadavg()[0]:.1f} at the start",
        "Python": platform.python_version(),
        "torch": metadata.version("torch"),
        "spore_borg": metadata.version("spore-borg"),
    }
