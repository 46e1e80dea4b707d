"""Builds the bodies of the verification exchange from what a worker computed. Pure.

The same functions serve the node and the simulator, so that what is simulated is what runs.
Source: PROTOCOL §4; spec/40-verification.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spore_borg.records import merkle
from spore_borg.records.bodies import COMMITS_MAX, AttestCommit, AttestReveal, Experiment, Open, Task
from spore_borg.records.cid import Cid
from spore_borg.views import evidence as ev
from spore_borg.views.draw import Probe
from spore_borg.views.verdicts import Claim, Evidence

WHY_BYTES, ERROR_BYTES = 280, 500  # as in records.bodies.Experiment


def clip(text: str, size_bytes: int) -> str:
    """The text, cut to at most this many UTF-8 bytes, an ellipsis where something was cut."""
    raw = text.encode(errors="replace")
    return raw.decode() if len(raw) <= size_bytes else raw[: size_bytes - 3].decode(errors="ignore") + "…"


@dataclass(frozen=True, slots=True)
class Run:
    """What the harness computed in one run, and what stays secret until it is opened.

    Attributes:
        losses: nano-bits per block; digests: K+1 state digests; params, tail: parts of the last one.
        loss_secret, state_secret: 32 bytes each; salts derive from them.
    """

    losses: tuple[int, ...]
    digests: tuple[bytes, ...]
    params: bytes
    tail: bytes
    loss_secret: bytes
    state_secret: bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """The describing half of a run: identity, cost, files."""

    recipe: dict[str, int | bool | str]
    operator: str
    why: str
    bases: tuple[Cid, ...]
    intent: Cid
    seed: bytes
    family: str
    fingerprint: bytes
    params_count: int
    steps: int
    flops: int
    cpu_ms: int
    curve: tuple[int, ...]


def claim_body(
    task_cid: Cid, task: Task, facts: Facts, run: Run, weights: Cid, states: Sequence[Cid], outcome: str
) -> Experiment:
    """The claim of a run that ended well."""
    root = merkle.loss_root(run.loss_secret, list(run.losses))
    return Experiment(
        task=task_cid, bases=facts.bases, recipe=facts.recipe, operator=facts.operator, why=clip(facts.why, WHY_BYTES),
        intent=facts.intent, seed=facts.seed, family=facts.family, fingerprint=facts.fingerprint, outcome=outcome,
        error="", metric=root.total // task.val_bytes, loss_root=root.digest, loss_sum=root.total,
        state_root=merkle.state_root(run.state_secret, list(run.digests)), states=tuple(states), weights=weights,
        params=run.params, params_count=facts.params_count, steps=facts.steps, flops=facts.flops,
        cpu_ms=facts.cpu_ms, curve=facts.curve,
    )  # fmt: skip


def crash_body(task_cid: Cid, facts: Facts, error: str) -> Experiment:
    """The record of a run that crashed: nothing to verify, something to learn."""
    return Experiment(
        task=task_cid, bases=facts.bases, recipe=facts.recipe, operator=facts.operator, why=clip(facts.why, WHY_BYTES),
        intent=facts.intent, seed=facts.seed, family=facts.family, fingerprint=facts.fingerprint, outcome="crashed",
        error=clip(error, ERROR_BYTES), metric=None, loss_root=None, loss_sum=None,
        state_root=None, states=(), weights=None, params=None, params_count=facts.params_count, steps=facts.steps,
        flops=facts.flops, cpu_ms=facts.cpu_ms, curve=facts.curve,
    )  # fmt: skip


def asked_inner(claim: Claim) -> tuple[tuple[int, int], ...]:
    """The (segment, step) pairs whose inner digests an opening must give, for every commit it answers."""
    asked: set[tuple[int, int]] = set()
    for item in answered(claim):
        probe = claim.probes.get(item.author) or claim.shadows.get(item.author)
        asked.update(probe.segments if probe else ())
    return tuple(sorted(asked))


def answered(claim: Claim) -> list[Evidence]:
    """The commits that an opening answers: those of drawn nodes first."""
    items = sorted(
        claim.evidence.values(), key=lambda item: (item.author not in claim.probes, item.commit.cid)
    )
    return items[:COMMITS_MAX]


def opening(claim: Claim, run: Run, inner: Mapping[tuple[int, int], bytes]) -> Open:
    """Open a claim for all commits that are acknowledged."""
    return Open(
        target=claim.cid, commits=tuple(item.commit.cid for item in answered(claim)),
        loss_secret=run.loss_secret, losses=run.losses, state_secret=run.state_secret, digests=run.digests,
        tail=run.tail, inner=tuple((segment, step, digest) for (segment, step), digest in sorted(inner.items())),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What a verifier recomputed.

    Attributes:
        params: digest of the fetched weights.
        losses: (block, nano-bits) in block order.
        segments: (segment, step, start, inner, end) as asked.
        steps: one-step jury: (step, relative error in millionths) as asked.
    """

    params: bytes | None
    losses: tuple[tuple[int, int], ...]
    segments: tuple[tuple[int, int, bytes, bytes, bytes], ...]
    cpu_ms: int
    steps: tuple[tuple[int, int], ...] = ()


def reveal_body(claim: Cid, commit: Cid, nonce: bytes, found: Found) -> AttestReveal:
    """The evidence behind a commit."""
    return AttestReveal(
        target=claim, commit=commit, nonce=nonce, params=found.params, losses=found.losses,
        segments=found.segments, steps=found.steps, cpu_ms=found.cpu_ms,
    )  # fmt: skip


def commit_body(
    claim: Cid, author: bytes, nonce: bytes, found: Found, named: ev.Named | None
) -> AttestCommit:
    """The commitment to evidence; the evidence's own link to the commit is not part of its digest."""
    evidence = reveal_body(claim, claim, nonce, found)
    return AttestCommit(target=claim, digest=ev.digest(author, evidence), named=named)


def covers(probe: Probe, found: Found) -> bool:
    """Whether evidence has all that a probe asks for."""
    return (
        tuple(block for block, _ in found.losses) == probe.blocks
        and tuple((segment, step) for segment, step, *_ in found.segments) == probe.segments
    )


def secret(key_secret: bytes, purpose: str, seed: int) -> bytes:
    """A run's salt secret: derived, so that a node can open its claims after it lost its work directory."""
    return hashlib.sha256(
        b"spore-borg/secret/" + purpose.encode() + key_secret + seed.to_bytes(8, "big")
    ).digest()
