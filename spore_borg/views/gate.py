"""Whether a shard makes the state better somewhere and worse nowhere: a paired test in whole numbers.

Source: PROTOCOL §6; spec/51-absorption-and-state.md §§1, 3, 5; of merges spec/52-merge.md §5.
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
GAIN_SHARE = 100  # better: by at least 1 / 100 of the losses before; copies and untrained networks gain less
HARM_SHARE = 1_000  # worse: by at least 1 / 1000; what is less is of no account, however steady it is
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
        held: whether a harm of a hundredth is ruled out: what a merge that is not better must show.
    """

    probe: int
    name: str
    pairs: int
    gain: int
    word: str
    held: bool = False


def weigh(probe: int, name: str, before: Sequence[int], after: Sequence[int]) -> Weighed:
    """Whether losses fall or rise beyond noise *and* by an amount that matters, in whole numbers: no root, no float.

    Beyond noise: a paired t test at ``|t| > 2``, in squares. What matters: a hundredth of the losses before for
    better, a thousandth for worse. With some 16 pairs t alone sees any steady trifle, such as what a copy gains.

    Args:
        before, after: the losses of the compared pairs, nano; as many of each.
    """
    differences = [a - b for a, b in zip(before, after, strict=True)]
    count, total = len(differences), sum(differences)
    if count < PAIRS_MIN:
        return Weighed(probe, name, count, total, "unknown")
    # What is left of a hundredth of the losses when the harm is taken off; 100 times, to stay in whole numbers.
    margins = [GAIN_SHARE * d + one for d, one in zip(differences, before, strict=True)]
    held = sum(margins) > 0 and beyond_noise(margins)
    word = "even"
    if beyond_noise(differences):
        share = GAIN_SHARE if total > 0 else HARM_SHARE
        if abs(total) * share >= sum(before):
            word = "better" if total > 0 else "worse"
    return Weighed(probe, name, count, total, word, held)


def beyond_noise(differences: Sequence[int]) -> bool:
    """Whether |t| > 2 for the mean of paired differences."""
    count, total = len(differences), sum(differences)
    spread = count * sum(d * d for d in differences) - total * total
    return bool(total) and total * total * (count - 1) > T_SQUARED * spread


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
        whole = [(a, b) for a, b in pairs if a in seen and b in seen]
        name = names[group - 1] if group <= len(names) else f"probe {group - 1}"
        found.append(weigh(group - 1, name, [losses[a] for a, _ in whole], [losses[b] for _, b in whole]))
    return found


def weigh_fidelity(base: Sequence[int], own: Sequence[int], covered: Iterable[int]) -> Weighed:
    """A refinement's fidelity against its base's."""
    seen = frozenset(covered)
    blocks = [block for block in range(UNITS) if block in seen]
    return weigh(-1, FIDELITY, [base[block] for block in blocks], [own[block] for block in blocks])


def decide(weighed: Sequence[Weighed], fewer: int = 0) -> tuple[bool, str]:
    """Whether the gate lets it in, and why (not), in one sentence.

    Args:
        fewer: by how many members the state gets smaller: a merge takes the place of several. Then it need not be
            better, but must be shown to be no worse by a hundredth anywhere.
    """
    by_word: Mapping[str, list[str]] = {
        word: [item.name for item in weighed if item.word == word]
        for word in ("better", "worse", "even", "unknown")
    }
    if by_word["worse"]:
        return False, f"It makes the state worse in {_list(by_word['worse'])}, so it does not join it."
    if by_word["better"]:
        return True, f"The state gets better in {_list(by_word['better'])} and worse nowhere."
    if fewer > 0 and weighed:
        loose = [item.name for item in weighed if not item.held]
        if not loose:
            models = "model" if fewer == 1 else "models"
            return True, f"The state gets smaller by {fewer} {models} and nowhere worse by a hundredth."
        return (
            False,
            f"Neither better nor shown to lose less than a hundredth in {_list(loose)}: the inputs stay.",
        )
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
