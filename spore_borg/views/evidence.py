"""From opened evidence to pass or fail: nobody's opinion enters.

Source: PROTOCOL §4; spec/40-verification.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from spore_borg.records import merkle
from spore_borg.records.bodies import Absorption, AttestReveal, Experiment, Open, Task
from spore_borg.records.canonical import encode
from spore_borg.views import gate
from spore_borg.views.draw import Probe

WEIGHTS, OUTCOME, REPLAY = 0, 1, 2  # what a dispute can be about: the weights file, a block, a segment
CLEAR_PPM = 1_000  # relative error up to which a jury's block clears the author (1e-3)
FRAUD_PPM = 10_000  # … and from which on it convicts (1e-2)
FRAUD_TOLERANCES = 10  # … for absorptions, whose losses may be near 0: from so many tolerances on it convicts
FAR_NANO = 5_000_000  # what a loss of an absorption may move at least on hardware of another fingerprint
FAR_PROBE_PPM = 5_000  # … and of a larger loss of a probe this part; of a fidelity block all of it
NOTHING = hashlib.sha256(b"").digest()  # of a layer group without tensors

Named = tuple[int, int]
Claimed = Experiment | Absorption


def digest(author: bytes, reveal: AttestReveal) -> bytes:
    """What ``attest_commit`` holds: bound to the verifier's key, so it cannot be copied."""
    evidence = [reveal.target, reveal.params, list(reveal.losses), list(reveal.segments), list(reveal.steps)]
    return hashlib.sha256(b"spore-borg/evidence\0" + author + reveal.nonce + encode(evidence)).digest()


def opening_fault(claim: Claimed, task: Task, opening: Open) -> str:
    """Why an opening contradicts the claim it opens; empty if it fits.

    The author made both, so a contradiction is proof against the author and needs no jury.
    """
    if len(opening.losses) != task.blocks or len(opening.digests) != task.segments + 1:
        return "the opening does not have the task's number of blocks and states"
    root = merkle.loss_root(opening.loss_secret, list(opening.losses))
    if (root.digest, root.total) != (claim.loss_root, claim.loss_sum):
        return "the opened losses are not those that the claim committed to"
    if merkle.state_root(opening.state_secret, list(opening.digests)) != claim.state_root:
        return "the opened state digests are not those that the claim committed to"
    if claim.params is None or merkle.state_digest(claim.params, opening.tail) != opening.digests[-1]:
        return "the published weights are not the last state of the run"
    if isinstance(claim, Absorption) and claim.metric != gate.infidelity(
        opening.losses, task, claim.modality
    ):
        return "the claimed infidelity is not that of the opened losses"
    if isinstance(claim, Absorption) and claim.groups != filled(opening.digests, opening.tail):
        return "the opened digests show other empty layer groups than claimed"
    return ""


def filled(digests: Sequence[bytes], tail: bytes) -> tuple[int, ...]:
    """The layer groups of a conversion that hold something: an empty one adds the digest of nothing to the chain.

    Args:
        digests: the K + 1 digests of the chain; tail: its last link.
    """
    links = [*digests[:-1], tail]
    return tuple(
        number
        for number, (link, after) in enumerate(pairwise(links))
        if after != hashlib.sha256(link + NOTHING).digest()
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """What one node's evidence shows.

    Attributes:
        word: pass, fail or void (evidence that does not cover what was asked).
        named: what the first failure is about; None for a pass.
        loss_delta_max: largest difference of one block's loss, nano-bits.
        note: one sentence.
    """

    word: str
    named: Named | None
    loss_delta_max: int
    note: str


def tolerance(claim: Claimed, task: Task, opening: Open, block: int, twin: bool) -> int:
    """How far an honest verifier's loss of a block may be from the opened one.

    Inside one fingerprint losses are the same to the last bit. On other instruction sets a spike may fall on the other
    side of a threshold: measured, fidelity blocks moved by up to three quarters of their value, and blocks of probes by
    6e4 nano, since a readout is continuous in what it reads.

    Args:
        twin: the verifier has the author's fingerprint.
    """
    if twin or not isinstance(claim, Absorption):
        return task.tolerance
    opened = opening.losses[block]
    most = opened if block < gate.UNITS else opened * FAR_PROBE_PPM // 1_000_000
    return max(task.tolerance, FAR_NANO, most)


def judge(
    claim: Claimed, task: Task, opening: Open, probe: Probe, reveal: AttestReveal, twin: bool = True
) -> Finding:
    """Compare a verifier's numbers with the author's; ``twin``: they come from hardware of one fingerprint."""
    if tuple(block for block, _ in reveal.losses) != probe.blocks:
        return Finding("void", None, 0, "the evidence does not cover the drawn blocks")
    if tuple((segment, step) for segment, step, *_ in reveal.segments) != probe.segments:
        return Finding("void", None, 0, "the evidence does not cover the drawn segments")
    if probe.blocks and reveal.params != claim.params:
        return Finding(
            "fail", (WEIGHTS, 0), 0, "the published weights have another digest than the claim says"
        )
    deltas = {block: abs(loss - opening.losses[block]) for block, loss in reveal.losses}
    delta_max = max(deltas.values(), default=0)
    unit = "nano" if isinstance(claim, Absorption) else "nano-bits"
    for block in sorted(deltas):
        if deltas[block] > tolerance(claim, task, opening, block, twin):
            note = f"block {block} has another loss than claimed: {deltas[block]} {unit} apart"
            return Finding("fail", (OUTCOME, block), delta_max, note)
    inner = {(segment, step): value for segment, step, value in opening.inner}
    for segment, step, start, middle, end in reveal.segments:
        fault = segment_fault(opening, segment, start, end)
        if fault:
            return Finding("fail", (REPLAY, segment), delta_max, fault)
        if (segment, step) not in inner:
            return Finding(
                "void", None, delta_max, f"the author did not open step {step} of segment {segment}"
            )
        if inner[segment, step] != middle:
            return Finding(
                "fail", (REPLAY, segment), delta_max, f"segment {segment} differs at its step {step}"
            )
    return Finding("pass", None, delta_max, _summary(probe))


def segment_fault(opening: Open, segment: int, start: bytes, end: bytes) -> str:
    """Why replayed digests of a segment contradict the opened ones; empty if they agree."""
    if start != opening.digests[segment]:
        return f"the published start state of segment {segment} is not the one of the run"
    if end != opening.digests[segment + 1]:
        return f"segment {segment} ends in another state when replayed"
    return ""


def _summary(probe: Probe) -> str:
    parts = [f"{len(probe.blocks)} blocks evaluated"] if probe.blocks else []
    parts += [f"{len(probe.segments)} segments replayed"] if probe.segments else []
    return " and ".join(parts) + ": all agree"


def named_word(
    claim: Claimed, task: Task, opening: Open, named: Named, reveal: AttestReveal, twin: bool = True
) -> str:
    """What evidence says about the one named thing: clear, fraud, between, or empty if it does not cover it.

    *far* is what another kind of hardware says of a loss that only a twin could tell from an honest one.
    """
    tier, number = named
    if tier == WEIGHTS:
        return "" if reveal.params is None else ("clear" if reveal.params == claim.params else "fraud")
    if tier == OUTCOME:
        for block, loss in reveal.losses:
            if block == number:
                delta = abs(loss - opening.losses[block])
                if isinstance(claim, Absorption):
                    return _absorbed_word(delta, task.tolerance, tolerance(claim, task, opening, block, twin))
                if not task.tolerance:  # whole numbers all the way: there is no honest difference
                    return "fraud" if delta else "clear"
                error_ppm = delta * 1_000_000 // max(1, loss)
                clear, fraud = error_ppm <= CLEAR_PPM, error_ppm >= FRAUD_PPM
                return "clear" if clear else "fraud" if fraud else "between"
        return ""
    for segment, _step, start, _inner, end in reveal.segments:
        if segment == number:
            return "fraud" if segment_fault(opening, segment, start, end) else "clear"
    return ""


def _absorbed_word(delta: int, near: int, own: int) -> str:
    """Of one block of an absorption; ``own``: the tolerance for the hardware of whoever speaks."""
    if delta <= near:
        return "clear"
    if delta <= own:
        return "far"
    return "fraud" if delta >= FRAUD_TOLERANCES * own else "between"


def heard(words: Mapping[bytes, str], twins: Collection[bytes]) -> dict[bytes, str]:
    """The words of a jury: *far* clears the author unless a twin says fraud; then it is no word at all."""
    accused = any(words.get(who) == "fraud" for who in twins)
    return {who: word if word != "far" else "between" if accused else "clear" for who, word in words.items()}
