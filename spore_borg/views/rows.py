"""A view as table rows: what faces read. The tables are in ``store/schema.sql``; nothing here knows SQLite.

Ids become base32 text, verdicts become the words of the pages, and every row says why it is as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.records.keys import node_name
from spore_borg.views import failures, health, seeds, shards, terms, verdicts
from spore_borg.views.frontier import Frontier, Step, show
from spore_borg.views.lattices import NAMES_BASES
from spore_borg.views.reduce import View
from spore_borg.views.reputation import influence
from spore_borg.views.settle import recipe_digest
from spore_borg.views.standings import standing
from spore_borg.views.titles import title
from spore_borg.views.verdicts import Claim, Evidence

Row = dict[str, Any]
PPM = 1_000_000
_text, _name = (
    lru_cache(1 << 16, typed=True)(str),
    lru_cache(1 << 12)(node_name),
)  # the same ids at every fold


def tables(view: View, seq: Mapping[Cid, int], me: bytes) -> dict[str, list[Row]]:
    """All rows of all tables.

    Args:
        view: the fold.
        seq: local position of every record, for paging only.
        me: this node's key.
    """
    return {
        "meta": _meta(view, me),
        "task": [_task(view, cid) for cid in view.tasks],
        "record": [_record(view, record, seq[record.cid]) for record in view.dag.records if record.cid in seq],
        "experiment": list(_experiments(view, seq)),
        "shard": list(shards.shards(view, seq)),
        "frontier": list(_frontiers(view, seq)),
        "attestation": list(_attestations(view)),
        "ledger": [_ledger(number, entry) for number, entry in enumerate(view.ledger.entries, 1)],
        "node": list(_nodes(view)),
        "round": [
            {
                "round": r.round, "epoch": r.epoch, "seals": r.seals, "trust": r.trust, "trust_total": r.trust_total,
                "acknowledged": r.acknowledged, "digest": r.digest.hex(),
            }
            for r in view.rounds
        ],
        "queue": [_queue(view, claim) for claim in view.pending],
        "health": health.tables(view),
        **failures.tables(view, seq),
    }  # fmt: skip


def _meta(view: View, me: bytes) -> list[Row]:
    settled, latest = view.round_settled, view.round
    digest = view.digest_of(settled)
    newest = view.digest_of(latest)
    others = sum(1 for who in view.ledger.trust if who != me)
    values = {
        "mesh": _text(view.genesis.cid) if view.genesis else "",
        "mesh_name": view.genesis.body.name if view.genesis else "",
        "epoch_ms": str(view.genesis.body.epoch_ms) if view.genesis else "",
        "time_ms": str(view.genesis.body.time_ms) if view.genesis else "",
        "round": str(latest),
        "round_settled": str(settled),
        "epoch_latest": str(view.rounds[-1].epoch if view.rounds else 0),
        "digest": digest.hex() if digest else "",
        "digest_latest": newest.hex() if newest else "",
        "records": str(len(view.dag.records)),
        "me": _name(me),
        "status": "mesh" if others else "solo",
        **shards.meta(view),
    }
    return [{"key": key, "value": value} for key, value in values.items()]


def _task(view: View, cid: Cid) -> Row:
    task = view.tasks[cid]
    record = view.dag.records[view.dag.index[cid]]
    body = {**task.to_map(), "data": _text(task.data), "evaluator": task.evaluator.hex()}
    names = (
        "name",
        "metric",
        "direction",
        "unit",
        "sigma",
        "gain_min",
        "budget_flops",
        "segments",
        "blocks",
        "val_bytes",
    )
    return {
        "cid": str(cid), **{name: getattr(task, name) for name in names}, "data": _text(task.data),
        "evaluator": task.evaluator.hex(), "author": _name(record.author), "body": json.dumps(body, sort_keys=True),
        "kind": "absorption" if terms.takes_absorptions(task) else "experiment",
    }  # fmt: skip


def _record(view: View, record: Record, seq: int) -> Row:
    target = getattr(record.body, "target", None)
    if target is not None and target in view.by_instance:
        target = view.by_instance[target].target.cid
    return {
        "seq": seq, "cid": _text(record.cid), "kind": record.kind, "author": _name(record.author), "aseq": record.seq,
        "epoch": record.epoch, "round": view.ack.get(record.cid), "target": str(target) if target else None,
        "title": title(view, record), "size_bytes": len(record.raw),
    }  # fmt: skip


def _experiments(view: View, seq: Mapping[Cid, int]) -> Iterator[Row]:
    best = {step.cid: (1 if step is steps[-1] else 2) for _, steps, _ in _chosen(view) for step in steps}
    depths: dict[Cid, int] = {}
    for record in view.dag.records:
        if record.kind != "experiment" or record.cid not in seq:
            continue
        body = record.body
        depths[record.cid] = 1 + max((depths.get(base, 0) for base in body.bases), default=-1)
        claim = view.claims.get(record.cid)
        base_body = view.body_of(body.bases[0]) if body.bases else None
        gain = None
        if base_body is not None and body.metric is not None and base_body.metric is not None:
            gain = base_body.metric - body.metric
        yield {
            "seq": seq[record.cid], "cid": _text(record.cid), "task": _text(body.task), "class": body.family,
            "author": _name(record.author), "epoch": record.epoch,
            "base": _text(body.bases[0]) if body.bases else None,
            "base2": _text(body.bases[1]) if len(body.bases) > 1 else None, "depth": depths[record.cid],
            "operator": body.operator, "why": body.why, "recipe": json.dumps(body.recipe, sort_keys=True),
            "recipe_digest": recipe_digest(body.recipe).hex(),
            "changed": json.dumps(changed(base_body.recipe if base_body else {}, body.recipe) if base_body else []),
            "seed": str(int.from_bytes(body.seed, "big")), "intent": _text(body.intent),
            "witnesses": len(view.witnesses[record.cid]) if record.cid in view.witnesses else None,
            "metric": body.metric, "gain": gain, "steps": body.steps, "flops": body.flops,
            "cpu_ms": body.cpu_ms, "params_count": body.params_count,
            "weights": _text(body.weights) if body.weights else None,
            "fingerprint": body.fingerprint.hex(), "curve": json.dumps(body.curve), "outcome": body.outcome,
            "error": body.error or None, "frontier": best.get(record.cid, 0), **standing(view, record, claim),
        }  # fmt: skip


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[Any]]:
    """Fields that differ: [field, before, after], by name; without a lattice's names of its bases."""
    names = sorted((before.keys() | after.keys()) - {NAMES_BASES})
    return [
        [name, before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)
    ]


def _chosen(view: View) -> Iterator[tuple[tuple[Cid, str], list[Step], str]]:
    """The frontier of every task and class: the confirmed one, else what stands unverified."""
    for key in sorted(view.frontiers.keys() | view.solo.keys()):
        confirmed = view.frontiers[key].steps if key in view.frontiers else []
        if confirmed:
            yield key, confirmed, "confirmed"
        elif key in view.solo and view.solo[key].steps:
            yield key, view.solo[key].steps, "solo"


def _frontiers(view: View, seq: Mapping[Cid, int]) -> Iterator[Row]:
    for (task, family), steps, status in _chosen(view):
        pool: Frontier = (view.frontiers if status == "confirmed" else view.solo)[task, family]
        for number, step in enumerate(steps):
            claim = view.claims[step.cid]
            last = number == len(steps) - 1
            yield {
                "task": _text(task), "class": family, "step": number, "cid": _text(step.cid),
                "recipe_digest": step.recipe.hex(),
                "seq": seq.get(step.cid, 0), "metric": pool.mean(step.recipe) if last else step.metric,
                "runs": len(pool.runs[step.recipe]) if last else step.runs, "gain": step.gain,
                "threshold": step.threshold,
                "round": step.round, "author": _name(step.author), "status": status,
                "verdicts": sum(e.finding is not None and e.finding.word == "pass" for e in claim.evidence.values()),
            }  # fmt: skip


def _attestations(view: View) -> Iterator[Row]:
    number = 0
    for claim in sorted(view.by_instance.values(), key=lambda item: (item.round_ack, item.cid)):
        expected = set(claim.probes) | set(claim.evidence)
        for who in sorted(expected):
            number += 1
            yield _attestation(view, claim, who, claim.evidence.get(who), number, jury=False)
        for who in sorted(claim.jury):
            number += 1
            yield _attestation(view, claim, who, claim.jury[who], number, jury=True)


def _attestation(
    view: View, claim: Claim, who: bytes, item: Evidence | None, number: int, *, jury: bool
) -> Row:
    probe = claim.probes.get(who) or claim.shadows.get(who)
    member = view.members.get(who)
    finding = item.finding if item else None
    word = finding.word if finding else ("no-show" if claim.stage == "settled" else "waiting")
    note = finding.note if finding else ""
    if jury and claim.named is not None:
        said = claim.ruling.get(who, "")
        word = {"fraud": "fail", "clear": "pass", "between": "void"}.get(said, word)
        note = f"jury: recomputed {_recomputed(claim, item)}"
    elif not note and probe is not None:
        note = f"{len(probe.blocks)} blocks to evaluate, {len(probe.segments)} segments to replay"
    tier = "jury" if jury else "+".join(t for t, on in _tiers(probe) if on)
    reveal = item.reveal if item else None
    return {
        "id": number, "target": _text(claim.target.cid), "claim": _text(claim.cid), "author": _name(who),
        "class": member.join.body.family if member and member.join else "", "drawn": int(who in claim.probes),
        "jury": int(jury), "commit_cid": _text(item.commit.cid) if item else None,
        "reveal_cid": _text(reveal.cid) if reveal else None, "tier": tier or "T1", "word": word, "probe": note,
        "delta": str(finding.loss_delta_max) if finding and probe and probe.blocks else None,
        "tolerance": str(claim.task.tolerance), "detail": json.dumps(_detail(claim, reveal)),
        "round": item.reveal_round if item else None,
    }  # fmt: skip


def _recomputed(claim: Claim, item: Evidence | None) -> str:
    """What a juror recomputed; for single steps with the largest relative error that it found."""
    assert claim.named is not None, "a jury recomputes what a dispute names"
    what = verdicts.describe(claim.named)
    answered = item.reveal.body.steps if item and item.reveal else ()
    if not answered:
        return what
    steps = ", ".join(str(step) for step, _ in answered)
    worst = max(ppm for _, ppm in answered)
    return f"steps {steps} of {what}; largest relative error {worst} ppm"


def _tiers(probe: Any) -> list[tuple[str, bool]]:
    return [] if probe is None else [("T1", bool(probe.blocks)), ("T2", bool(probe.segments))]


def _detail(claim: Claim, reveal: Record | None) -> Row:
    """The opened evidence: recomputed against claimed."""
    if reveal is None or claim.opening is None:
        return {}
    opened = claim.opening.body
    return {
        "blocks": [
            [b, loss, opened.losses[b] if b < len(opened.losses) else None] for b, loss in reveal.body.losses
        ],
        "segments": [
            [k, step, start == opened.digests[k], end == opened.digests[k + 1]]
            for k, step, start, _inner, end in reveal.body.segments
            if k + 1 < len(opened.digests)
        ],
        "steps": [[step, ppm] for step, ppm in reveal.body.steps],
        "weights": reveal.body.params == claim.body.params if reveal.body.params else None,
        "cpu_ms": reveal.body.cpu_ms,
    }


def _ledger(number: int, entry: Any) -> Row:
    return {
        "id": number, "node": _name(entry.node), "round": entry.round, "rule": entry.rule, "amount": entry.amount,
        "total": entry.total, "cause": _text(entry.cause) if entry.cause else None, "sentence": entry.sentence,
    }  # fmt: skip


def _nodes(view: View) -> Iterator[Row]:
    capped, total = influence(view.ledger.trust), max(1, sum(view.ledger.trust.values()))
    promised = seeds.lapsed(view)
    counts: dict[bytes, list[int]] = {}
    last: dict[bytes, Record] = {}  # of two with one number the one with the smaller cid, whoever came first
    seals: dict[bytes, Record] = {}
    for record in view.dag.records:
        count = counts.setdefault(record.author, [0, 0, 0])
        count[0] += 1
        count[1] += record.kind == "experiment"
        count[2] += record.kind == "attest_reveal"
        _keep_newest(last, record)
        if record.kind == "seal":
            _keep_newest(seals, record)
    for key in sorted(counts):
        member, account, seal = view.members.get(key), view.ledger.accounts.get(key), seals.get(key)
        join = member.join.body if member and member.join else None
        profile = member.profile.body if member and member.profile else None
        yield {
            "name": _name(key), "display": profile.display_name if profile else None,
            "class": join.family if join else "", "fingerprint": join.fingerprint.hex() if join else "",
            "device": join.device if join else "", "role": join.role if join else "",
            "root": int(key in view.ledger.roots),
            "score": account.score if account else 0, "frauds": account.frauds if account else 0,
            "trust": view.ledger.trust.get(key, 0), "influence_ppm": capped.get(key, 0) * PPM // total,
            "banned": int(account.banned) if account else 0,
            "banned_cause": _text(account.banned_cause) if account and account.banned_cause else None,
            "intents": promised.get(key, (0, 0))[0], "lapsed": promised.get(key, (0, 0))[1],
            "records": counts[key][0], "experiments": counts[key][1], "attestations": counts[key][2],
            "last_epoch": last[key].epoch,
            "last_round": member.round_seen if member and member.round_seen >= 0 else None,
            "digest": seal.body.digest.hex() if seal and seal.body.digest else None,
            "digest_round": seal.body.round if seal and seal.body.digest else None,
            "profile": json.dumps(profile.to_map()) if profile else None,
        }  # fmt: skip


def _keep_newest(newest: dict[bytes, Record], record: Record) -> None:
    other = newest.get(record.author)
    if other is None or (-record.seq, record.cid) < (-other.seq, other.cid):
        newest[record.author] = record


def _queue(view: View, claim: Claim) -> Row:
    waited = view.round - claim.round_ack
    frontier = view.solo.get((claim.target.body.task, claim.body.family))
    promising = bool(
        frontier and frontier.steps and claim.body.metric and claim.body.metric < frontier.steps[-1].metric
    )
    parts = {
        "waiting": waited,
        "may move the frontier": 20 if promising else 0,
        "new author": 5 if claim.new_author else 0,
    }
    return {
        "claim": _text(claim.cid), "target": _text(claim.target.cid), "task": _text(claim.target.body.task),
        "author": _name(claim.author), "class": claim.body.family, "stage": claim.stage,
        "priority": sum(parts.values()),
        "parts": json.dumps(parts), "drawn": json.dumps([_name(who) for who in sorted(claim.probes)]),
        "waiting_for": json.dumps([_name(who) for who in claim.waiting_for(set(view.ledger.trust))]),
        "round_deadline": claim.deadline(), "sentence": claim.reason,
    }  # fmt: skip


__all__ = ["changed", "show", "standing", "tables"]
