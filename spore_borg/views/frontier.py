"""The frontier: per task and hardware class the recipes whose gain over the best so far exceeds the noise.

Runs of one recipe (other seeds, other authors) are pooled; a step counts when the mean gain exceeds
``max(gain_min, 3 sigma sqrt(1/n + 1/m))``. Compared in squares, so no root and no float is needed.
Source: LEARN §1, keep rule; spec/21-frontier.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spore_borg.records.bodies import Task
from spore_borg.records.cid import Cid

RecipeKey = bytes  # 32-byte digest of the canonical recipe
_SIGMAS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a frontier. Metrics in the task's unit (nano-bits per byte)."""

    cid: Cid
    recipe: RecipeKey
    author: bytes
    metric: int  # mean over ``runs`` accepted runs, when the step was made
    runs: int
    gain: int | None  # over the step before; None for the first
    threshold: int
    round: int


@dataclass(slots=True)
class Frontier:
    """All accepted runs of one (task, class), pooled by recipe, and the steps."""

    runs: dict[RecipeKey, list[int]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def mean(self, recipe: RecipeKey) -> int:
        """Mean metric of a recipe's accepted runs, rounded down."""
        values = self.runs[recipe]
        return sum(values) // len(values)

    def offer(
        self, task: Task, cid: Cid, recipe: RecipeKey, author: bytes, metric: int, round_: int
    ) -> tuple[bool, str]:
        """Take an accepted run; returns whether it makes a step, and why (not), in one sentence."""
        self.runs.setdefault(recipe, []).append(metric)
        mean, runs = self.mean(recipe), len(self.runs[recipe])
        if not self.steps:
            self.steps.append(Step(cid, recipe, author, mean, runs, None, 0, round_))
            return True, "The first accepted result of its task and hardware class."
        best = self.steps[-1].recipe
        if best == recipe:
            return False, f"Another run of the best recipe: it now rests on {runs} runs."
        gain, rivals = self.mean(best) - mean, len(self.runs[best])
        limit = threshold(task, runs, rivals)
        if gain <= 0:
            return False, f"Its mean is {show(-gain)} {short_unit(task.unit)} above the best."
        if gain <= limit:
            return False, (
                f"Its gain of {show(gain)} {short_unit(task.unit)} over {runs} run(s) is within the noise: "
                f"more than {show(limit)} is needed."
            )
        self.steps.append(Step(cid, recipe, author, mean, runs, gain, limit, round_))
        unit = short_unit(task.unit)
        return True, f"Its gain of {show(gain)} {unit} exceeds the {show(limit)} that the noise asks for."


def threshold(task: Task, runs: int, rivals: int) -> int:
    """``max(gain_min, 3 sigma sqrt(1/runs + 1/rivals))`` in the task's unit, rounded up to whole units."""
    square = (_SIGMAS * task.sigma) ** 2 * (runs + rivals)
    noise, scale = _ceil_sqrt(-(-square // (runs * rivals))), task.gain_min
    return max(scale, noise)


def short_unit(unit: str) -> str:
    """A task's unit in a sentence: nano-bits/character as bpc, anything else as before there were others."""
    return "bpc" if unit == "nano-bits/character" else "bpb"


def _ceil_sqrt(number: int) -> int:
    low, high = 0, 1 << (number.bit_length() // 2 + 1)
    while low < high:
        middle = (low + high) // 2
        if middle * middle < number:
            low = middle + 1
        else:
            high = middle
    return low


def show(nano: int) -> str:
    """Nano-units as a decimal with four places, rounded to nearest, without floats."""
    sign, value = ("-", -nano) if nano < 0 else ("", nano)
    value = (value + 50_000) // 100_000
    return f"{sign}{value // 10_000}.{value % 10_000:04d}"
