"""The state as table rows: every absorption with its verdict, its standing in the state and what its probes say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from spore_borg.records.bodies import Absorption, Merge, Refinement
from spore_borg.records.cid import Cid
from spore_borg.records.keys import node_name
from spore_borg.views.bank import JOINED, Standing
from spore_borg.views.gate import Weighed
from spore_borg.views.reduce import View
from spore_borg.views.standings import standing

Row = dict[str, Any]
CONFIRMED, SOLO = 1, 2  # the column ``member``


def shards(view: View, seq: Mapping[Cid, int]) -> Iterator[Row]:
    """One row for each absorption, refinement and merge."""
    for record in view.dag.records:
        body = record.body
        if not isinstance(body, Absorption) or record.cid not in seq:
            continue
        said = standing(view, record, view.claims.get(record.cid))
        member, place = place_of(view, record.cid)
        yield {
            "seq": seq[record.cid], "cid": str(record.cid), "kind": record.kind, "task": str(body.task),
            "class": body.family, "author": node_name(record.author), "epoch": record.epoch, "name": body.name,
            "origin": body.origin, "licence": body.licence, "head": body.head, "modality": body.modality,
            "rule": body.rule, "steps": body.steps, "layers": body.layers, "params_count": body.params_count,
            "sparsity_ppm": body.sparsity_ppm, "cpu_ms": body.cpu_ms, "metric": body.metric,
            "source_bytes": body.source_bytes, "shard_bytes": body.shard_bytes, "ops": body.ops,
            "weights": str(body.weights), "sources": json.dumps([[name, str(cid)] for name, cid in body.sources]),
            "base": str(body.base) if isinstance(body, Refinement) else None,
            "inputs": json.dumps(_inputs(body)),
            "state": json.dumps([str(cid) for cid in body.state]), "operator": body.operator, "why": body.why,
            "outcome": body.outcome, "fingerprint": body.fingerprint.hex(),
            **{name: said[name] for name in ("verdict", "stage", "reason", "round_ack", "round_settled", "settled")},
            "member": member, "standing": said["frontier_why"] if place is None else place.why,
            "gains": json.dumps([] if place is None else [_gain(item) for item in place.weighed]),
        }  # fmt: skip


def place_of(view: View, cid: Cid) -> tuple[int, Standing | None]:
    """How an absorption is in the state (column ``member``), and where it stands there."""
    confirmed, solo = view.bank.standings.get(cid), view.bank_solo.standings.get(cid)
    if confirmed is not None:
        return (CONFIRMED if confirmed.word == JOINED else 0), confirmed
    return (SOLO if solo is not None and solo.word == JOINED else 0), solo


def _inputs(body: Absorption) -> list[list[str | int]]:
    """Of a merge, what it joins and with which weights."""
    if not isinstance(body, Merge):
        return []
    return [[str(cid), weight] for cid, weight in zip(body.inputs, body.incomes, strict=True)]


def _gain(item: Weighed) -> Row:
    return {"probe": item.name, "pairs": item.pairs, "gain": item.gain, "word": item.word}


def meta(view: View) -> dict[str, str]:
    """What the table ``meta`` says of the state."""
    digest, members = view.bank.digest(), view.bank.members()
    return {"state_digest": digest.hex() if digest else "", "state_members": str(len(members))}
