"""One line of words for every record, made from its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spore_borg.records.envelope import Record
from spore_borg.views.frontier import short_unit, show

if TYPE_CHECKING:
    from spore_borg.views.reduce import View


def title(view: View, record: Record) -> str:
    """What a list shows for this record; at most 120 characters."""
    return _words(view, record)[:120]


def _words(view: View, record: Record) -> str:
    body = record.body
    match record.kind:
        case "genesis":
            return f"The mesh {body.name} begins"
        case "join":
            return f"A {body.family} node joins to {body.role}"
        case "invite":
            return f"An invitation for up to {body.uses} node(s)"
        case "profile":
            return f"Profile: {body.display_name}"
        case "seal":
            return f"Seal of epoch {record.epoch}"
        case "task":
            return f"Task {body.name}: {body.metric}, {body.direction}"
        case "intent":
            return f"About to run recipe {body.recipe.hex()[:8]}"
        case "experiment" | "absorption" | "refinement" | "merge" | "retract":
            return _of_work(view, record)
        case "announce":
            return "Asks again for verification"
        case "attest_commit":
            return "Commits to evidence" + (" for a jury" if body.named else "")
        case "open":
            return f"Opens its claim for {len(body.commits)} verifier(s)"
        case "attest_reveal":
            return f"Evidence: {len(body.losses)} blocks, {len(body.segments)} segments, {len(body.steps)} single steps"
        case "trace" | "trace_states":
            what = "Every state" if record.kind == "trace" else "States around disputed steps"
            return f"{what} of segment {body.segment}"
        case _:
            return record.kind


def _of_work(view: View, record: Record) -> str:
    """Of what a node has made, or takes back."""
    body = record.body
    if record.kind == "experiment":
        task = view.tasks.get(body.task)
        unit = "bpb" if task is None else short_unit(task.unit)
        result = "crashed" if body.metric is None else f"{show(body.metric)} {unit}"
        return f"{body.operator}: {body.why} ({result})"
    if record.kind == "retract":
        return f"Takes an absorption out of the state: {body.why}"
    verb = {"absorption": "Absorbs", "refinement": "Refines"}.get(record.kind, "Merges")
    fidelity = show(max(0, 1_000_000_000 - body.metric))
    return f"{verb} {body.name}: {body.head}, {body.rule} with {body.steps} steps (fidelity {fidelity})"
