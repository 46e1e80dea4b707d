"""Failures as signatures: crashed runs whose errors say the same, apart from numbers, addresses and paths.

An error is a stranger's text, so a signature is a pure function of that text alone: the same words give the same id
on every node. What fixed a failure is read from the graph of bases: a later run on the same base that changed the
same fields in another way and did not crash. Integers and texts only. Source: spec/20-views.md, "Failures".
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spore_borg.records.bodies import Experiment
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views.lattices import NAMES_BASES
from spore_borg.views.reduce import View

SIGNATURE_CHARS = 12  # hex digits: 48 bits tell millions of signatures apart
TEXT_CHARS = 300  # of a normalised error
FIELDS_MAX = 8  # fields shown of one signature
WORDS_MAX = 40  # words of one signature that can be searched
VALUE_CHARS = 80  # of one recipe value
UNKNOWN = "no error text"

_QUOTED_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.\-+@ ]{1,80}){2,}|~?(?:/[\w.\-+@]{1,80}){2,}")
_ID = re.compile(r"\bb[a-z2-7]{50,62}\b|\b[a-z2-7]{52}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_HEX = re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b")
_NUMBER = re.compile(r"(?<![a-z_])[-+]?(?:\d+(?:[.,_]\d+)*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?)(?![a-z]*_)")
_LIST = re.compile(r"#(?:\s*[,x×]\s*#)+")
_WORD = re.compile(r"\w{2,31}")


def normalised(error: str) -> str:
    """An error without what differs from run to run: paths become ``/…``, ids and addresses ``@``, numbers ``#``."""
    text = "".join(c if unicodedata.category(c)[0] not in "CZ" else " " for c in error[: 4 * TEXT_CHARS])
    text = " ".join(text.lower().split())
    text = _QUOTED_PATH.sub("/…", text)
    text = _HEX.sub("@", _ID.sub("@", text))
    text = _LIST.sub("#…", _NUMBER.sub("#", text))
    return text[:TEXT_CHARS].strip() or UNKNOWN


def signature(error: str) -> str:
    """The short id of what an error says: hex digits of the SHA-256 of its normalised text."""
    digest = hashlib.sha256(b"spore-borg/failure\0" + normalised(error).encode("utf-8", "replace"))
    return digest.hexdigest()[:SIGNATURE_CHARS]


def words(text: str) -> tuple[str, ...]:
    """The words of a text by which a signature is found, in lower case, each once."""
    return tuple(dict.fromkeys(_WORD.findall(text.lower())))[:WORDS_MAX]


@dataclass(slots=True)
class Failure:
    """One signature with the runs that have it, oldest first."""

    signature: str
    text: str
    runs: list[Record] = field(default_factory=list)
    fixes: dict[Cid, Cid] = field(default_factory=dict)  # crashed run → the run that fixed it


def changes(view: View, record: Record) -> dict[str, tuple[Any, Any]]:
    """Fields that a run changed against its first base: name → (before, after). Empty without a known base.

    Without the one in which a lattice's recipe names its bases: it is another one in every run.
    """
    body: Experiment = record.body
    if not body.bases or body.bases[0] not in view.dag.index:
        return {}
    base = view.dag.records[view.dag.index[body.bases[0]]].body
    if not isinstance(base, Experiment):
        return {}
    names = base.recipe.keys() | body.recipe.keys()
    return {
        name: (base.recipe.get(name), body.recipe.get(name))
        for name in sorted(names)
        if base.recipe.get(name) != body.recipe.get(name) and name != NAMES_BASES
    }


def failures(view: View) -> list[Failure]:
    """Every signature of the set, those with the most runs first."""
    crashed = [r for r in view.dag.records if r.kind == "experiment" and r.body.outcome == "crashed"]
    found: dict[str, Failure] = {}
    for record in sorted(crashed, key=lambda r: (r.epoch, r.cid)):
        name = signature(record.body.error)
        known = found.setdefault(name, Failure(name, normalised(record.body.error)))
        known.runs.append(record)
    siblings = _siblings(view, {base for r in crashed for base in r.body.bases[:1]})
    for failure in found.values():
        for record in failure.runs:
            fix = _fix(view, record, siblings.get(record.body.bases[0], ()) if record.body.bases else ())
            if fix is not None:
                failure.fixes[record.cid] = fix
    return sorted(found.values(), key=lambda f: (-len(f.runs), f.signature))


def _siblings(view: View, bases: set[Cid]) -> dict[Cid, list[Record]]:
    """Runs that did not crash, by their base, oldest first."""
    out: dict[Cid, list[Record]] = defaultdict(list)
    for record in view.dag.records:
        if record.kind == "experiment" and record.body.outcome != "crashed":
            for base in record.body.bases[:1]:
                if base in bases:
                    out[base].append(record)
    for runs in out.values():
        runs.sort(key=lambda r: (r.epoch, r.cid))
    return out


def _fix(view: View, record: Record, siblings: Iterable[Record]) -> Cid | None:
    """The first later run on the same base that changed one of the crashed fields to another new value."""
    crashed = changes(view, record)
    for other in siblings:
        if other.epoch < record.epoch or not crashed:
            continue
        recipe = other.body.recipe
        if any(recipe.get(name) not in pair for name, pair in crashed.items()):
            return other.cid
    return None


def common_fields(view: View, failure: Failure) -> list[list[Any]]:
    """What the runs of a signature have in common: ``[field, runs that changed it, [values]]``, the most first.

    Fields that no run changed against its base follow where all runs share a value that is not the task's baseline's:
    their number is 0.
    """
    changed: Counter[str] = Counter()
    values: dict[str, list[Any]] = defaultdict(list)
    for record in failure.runs:
        for name, (_, after) in changes(view, record).items():
            changed[name] += 1
            if after not in values[name]:
                values[name].append(after)
    wanted = max(2, (len(failure.runs) + 1) // 2) if len(failure.runs) > 1 else 1
    ranked = sorted((-count, name) for name, count in changed.items() if count >= wanted)
    out = [[name, -count, _values(values[name])] for count, name in ranked]
    out += [[name, 0, _values([value])] for name, value in _shared(view, failure) if name not in changed]
    return out[:FIELDS_MAX]


def _shared(view: View, failure: Failure) -> list[tuple[str, Any]]:
    """Fields with one value in all runs, other than in their task's baseline."""
    first: Experiment = failure.runs[0].body
    same = dict(first.recipe)
    for record in failure.runs[1:]:
        recipe = record.body.recipe
        same = {name: value for name, value in same.items() if name in recipe and recipe[name] == value}
    tasks = {record.body.task for record in failure.runs}
    baselines = [view.tasks[task].baseline for task in tasks if task in view.tasks]
    return [
        (name, value)
        for name, value in sorted(same.items())
        if baselines and all(baseline.get(name) != value for baseline in baselines)
    ]


def _values(found: list[Any]) -> list[Any]:
    """At most four values, ordered; texts are cut."""
    kept = [value[:VALUE_CHARS] if isinstance(value, str) else value for value in found]
    return sorted(kept, key=lambda value: (str(type(value)), value) if value is not None else ("", 0))[:4]


def tables(view: View, seq: Mapping[Cid, int]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables ``failure``, ``failure_run`` and ``failure_word``; ``seq`` as in :mod:`views.rows`."""
    heads: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    for failure in failures(view):
        held = [record for record in failure.runs if record.cid in seq]
        if not held:
            continue
        last = max(held, key=lambda r: seq[r.cid])
        newest = max(failure.runs, key=lambda r: (r.epoch, r.cid))
        classes = Counter(r.body.family for r in failure.runs)
        fixed = next((failure.fixes[r.cid] for r in reversed(failure.runs) if r.cid in failure.fixes), None)
        heads.append({
            "signature": failure.signature, "text": failure.text, "example": newest.body.error,
            "runs": len(failure.runs), "authors": len({r.author for r in failure.runs}),
            "classes": json.dumps(sorted(([name, n] for name, n in classes.items()), key=lambda c: (-c[1], c[0]))),
            "tasks": json.dumps(sorted({str(r.body.task) for r in failure.runs})),
            "fields": json.dumps(common_fields(view, failure)),
            "flops": sum(r.body.flops for r in failure.runs), "first_epoch": failure.runs[0].epoch,
            "last_epoch": newest.epoch, "last_seq": seq[last.cid], "last_cid": str(last.cid),
            "fixed_by": str(fixed) if fixed else None, "fixed_runs": len(failure.fixes),
        })  # fmt: skip
        for record in held:
            fix = failure.fixes.get(record.cid)
            runs.append({
                "signature": failure.signature, "seq": seq[record.cid], "cid": str(record.cid),
                "fixed_by": str(fix) if fix else None,
            })  # fmt: skip
        named = " ".join(str(item[0]) for item in common_fields(view, failure))
        index += [
            {"word": word, "signature": failure.signature}
            for word in words(f"{failure.text} {named} {' '.join(classes)}")
        ]
    return {"failure": heads, "failure_run": runs, "failure_word": index}
