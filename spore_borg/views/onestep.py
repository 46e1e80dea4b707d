"""The one-step jury: a disputed segment comes down to a few single steps that any hardware can judge.

A whole segment cannot be compared across hardware classes: rounding differences grow from step to step. Over one
step from the same state they stay below 1e-4, and another recipe shows. Author and accusers therefore tell
the digests of every state of the segment; the first that differs names a step, and more steps after it are
drawn once the traces stand, so that a harmless first difference cannot cover for what follows.
Source: PROTOCOL §4; spec/41-one-step-jury.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from spore_borg.records.bodies import JURY_STEPS_MAX, TRACE_STATES_MAX, Open
from spore_borg.views import draw
from spore_borg.views.evidence import CLEAR_PPM, FRAUD_PPM

STEPS_DRAWN = 3  # steps that a jury recomputes beside the first differing ones
FIRSTS_MAX = JURY_STEPS_MAX - STEPS_DRAWN

Trace = tuple[bytes, ...]


def length(segment: int, segments: int, steps: int) -> int:
    """Number of steps of a segment."""
    first, last = draw.bounds(segment, segments, steps)
    return last - first


def traceable(segment: int, segments: int, steps: int) -> bool:
    """Whether the states of a segment fit into one record."""
    return length(segment, segments, steps) < TRACE_STATES_MAX


def trace_fault(opening: Open, segment: int, steps: int, digests: Trace) -> str:
    """Why an author's trace contradicts its own opening; empty if it fits.

    The author made both, so a contradiction is proof against the author.

    Args:
        steps: number of steps of the segment.
    """
    if len(digests) != steps + 1:
        return f"the trace does not have the {steps + 1} states of segment {segment}"
    if (digests[0], digests[-1]) != opening.digests[segment : segment + 2]:
        return f"the trace does not lead from the opened start of segment {segment} to its opened end"
    for where, step, digest in opening.inner:
        if where == segment and step <= steps and digests[step] != digest:
            return f"the trace has another state than was opened at step {step} of segment {segment}"
    return ""


def first_difference(own: Trace, other: Trace) -> int | None:
    """The first step (0: the start state) at which two traces of one length differ."""
    if len(own) != len(other):
        return None
    return next((step for step, (a, b) in enumerate(zip(own, other, strict=True)) if a != b), None)


def pick(own: Trace, others: Iterable[Trace], chance: bytes, claim: bytes) -> tuple[int, ...]:
    """The steps that the jury recomputes, ascending.

    Args:
        own: the author's trace; others: those of its accusers.
        chance: a value that nobody knew when the traces were published.
    """
    found = (first_difference(own, other) for other in others)
    firsts = sorted({step for step in found if step is not None})[:FIRSTS_MAX]
    last = len(own) - 1
    later = [step for step in range(1, last + 1) if step > (firsts[0] if firsts else 0)]
    ranked = sorted(set(later) - set(firsts), key=lambda step: draw.lot(chance, claim, "step", step))
    return tuple(sorted({*firsts, *ranked[:STEPS_DRAWN]}))


def word(asked: tuple[int, ...], answered: tuple[tuple[int, int], ...]) -> str:
    """What relative errors in millionths say: clear, fraud, between, or empty if they do not cover what is asked."""
    if not asked or tuple(step for step, _ in answered) != asked:
        return ""
    worst = max(ppm for _, ppm in answered)
    return "clear" if worst <= CLEAR_PPM else "fraud" if worst >= FRAUD_PPM else "between"
