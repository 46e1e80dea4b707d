"""Whether a shard makes the state better somewhere and worse nowhere: a paired test in whole numbers.

Source: PROTOCOL §6; spec/51-absorption-and-state.md §§1, 3, 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spore_borg.records.bodies import Task

UNITS = 16  # of one group: fidelity blocks, or pairs of a probe
PROBES_MAX = 7
GROUPS = 1 + PROBES_MAX
BLOCKS = UNITS * (1 + 2 * PROBES_MAX)
SEGMENTS = 8  # layer groups of a conversion, each redone alone
PAIRS_MIN = 4  # with fewer pairs a probe says nothing
T_SQUARED = 4  # |t| > 2
FIDELITY = "fidelity"


def probe_names(spec: Mapping[str, int | bool | str]) -> list[str]:
    """The names of the probes in a task's settings, in order: ``probes`` is "name,name,…"."""
    return [name for name in str(spec.get("probes", "")).split(",") if name][:PROBES_MAX]


def unit_blocks(group: int, index: int) -> tuple[int, ...]:
    """The blocks of one unit: a fidelity block (group 0), or a probe's pair of before and after."""
    if group == 0:
        return (index,)
    before = UNITS + 2 * UNITS * (group - 1) + index
    return before, before + UNITS


@dataclass(frozen=True, slots=True)
class Weighed:
    """What one probe says.

    Attributes:
        probe: its number from 0, or -1 for the fidelity of a refinement against its base; name: the same in words.
        pairs: how many were compared; gain: their sum of before - after, nano (positive is better).
        word: better, worse, even or unknown.
    """

    probe: int
    name: str
    pairs: int
    gain: int
    word: str


def weigh(probe: int, name: str, differences: Sequence[int]) -> Weighed:
    """Paired t test of differences against 0 at ``|t| > 2``, in squares: no root, no float."""
    count, total = len(differences), sum(differences)
    if count < PAIRS_MIN:
        return Weighed(probe, name, count, total, "unknown")
    spread = count * sum(d * d for d in differences) - total * total
    if total * total * (count - 1) <= T_SQUARED * spread or not total:
        return Weighed(probe, name, count, total, "even")
    return Weighed(probe, name, count, total, "better" if total > 0 else "worse")


def weigh_probes(losses: Sequence[int], covered: Iterable[int], names: Sequence[str] = ()) -> list[Weighed]:
    """Every probe of which something was measured.

    Args:
        losses: all ``BLOCKS`` opened losses; covered: blocks that passing evidence recomputed.
        names: of the probes, where they are known.
    """
    seen, found = frozenset(covered), []
    for group in range(1, GROUPS):
        pairs = [unit_blocks(group, index) for index in range(UNITS)]
        if not any(losses[block] for pair in pairs for block in pair):
            continue  # a probe of another modality, or no probe
        differences = [losses[a] - losses[b] for a, b in pairs if a in seen and b in seen]
        name = names[group - 1] if group <= len(names) else f"probe {group - 1}"
        found.append(weigh(group - 1, name, differences))
    return found


def weigh_fidelity(base: Sequence[int], own: Sequence[int], covered: Iterable[int]) -> Weighed:
    """A refinement's fidelity against its base's."""
    seen = frozenset(covered)
    return weigh(-1, FIDELITY, [base[block] - own[block] for block in range(UNITS) if block in seen])


def decide(weighed: Sequence[Weighed]) -> tuple[bool, str]:
    """Whether the gate lets it in, and why (not), in one sentence."""
    by_word: Mapping[str, list[str]] = {
        word: [item.name for item in weighed if item.word == word]
        for word in ("better", "worse", "even", "unknown")
    }
    if by_word["worse"]:
        return False, f"It makes the state worse in {_list(by_word['worse'])}, so it does not join it."
    if by_word["better"]:
        return True, f"The state gets better in {_list(by_word['better'])} and worse nowhere."
    if not weighed:
        return False, "No probe has its modality, so nothing shows that the state gets better by it."
    if not by_word["even"]:
        return False, "Too little of its probes was verified to show that the state gets better by it."
    return False, "The state gets better in no probe beyond the noise, so it does not join it."


def _list(words: list[str]) -> str:
    return ", ".join(words)


def infidelity(losses: Sequence[int], task: Task, modality: str) -> int:
    """The metric: mean nano-(1 - cosine) of an item, from the fidelity blocks.

    The task says how many items of a modality they hold: ``items_text`` and so on, else its ``val_bytes``.
    """
    items = task.spec.get(f"items_{modality}", 0)
    return sum(losses[:UNITS]) // (items if isinstance(items, int) and items > 0 else task.val_bytes)
