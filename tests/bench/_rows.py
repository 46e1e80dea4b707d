"""What `borg bench` measures: one declaration a row, and how a script reports what it found.

Standard library only: the scripts that drive the peer import this too, from an environment without spore_borg.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MARK = (
    '{"row": '  # a line of a script's output that begins so is a measurement; anything else is shown as it is
)
MISSING = '{"missing": '  # and one that begins so says what could not be measured


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title, unit: as printed. digits: after the point.
        more_is_better: direction of the ratio, which is > 1 where ours is better.
        target: what ours must reach, in words; met: whether the medians (ours, peer's or None) reach it,
            None where it cannot be said.
    """

    title: str
    unit: str
    digits: int = 0
    more_is_better: bool = False
    target: str = ""
    met: Callable[[float, float | None], bool | None] = lambda _ours, _peer: None


def at_most(limit: float) -> Callable[[float, float | None], bool]:
    """The median is not over a limit."""
    return lambda ours, _peer: ours <= limit


def at_least(limit: float) -> Callable[[float, float | None], bool]:
    """The median is not under a limit."""
    return lambda ours, _peer: ours >= limit


def times_peer(factor: float) -> Callable[[float, float | None], bool | None]:
    """At least so many times the peer's rate."""
    return lambda ours, peer: None if peer is None else ours >= factor * peer


def not_over_peer(ours: float, peer: float | None) -> bool | None:
    """As good as the peer or better, where less is better."""
    return None if peer is None else ours <= peer


ROWS: dict[str, Row] = {
    "ingest_experiments_wall": Row(
        "take in 2,000 experiments on disk: parse, verify, admit, store", "records/s (wall)", 0, True,
        "≥ 10 × Spore", times_peer(10),
    ),
    "ingest_experiments_cpu": Row(
        "the same by CPU time", "records/CPU-s", 0, True, "≥ 5,000", at_least(5_000),
    ),
    "ingest_mix_wall": Row(
        "take in 10,000 records in a mesh's mix of kinds, on disk", "records/s (wall)", 0, True,
        "≥ 5,000", at_least(5_000),
    ),
    "ingest_mix_cpu": Row("the same by CPU time", "records/CPU-s", 0, True, "≥ 5,000", at_least(5_000)),
    "sign_verify": Row("sign a small record, and verify it", "1/CPU-s", 0, True, "≥ 10,000", at_least(10_000)),
    "sync_mix_bytes": Row(
        "cold sync of 10,000 records in a mesh's mix: bytes on TCP, both ways", "MB", 2, False, "≤ 5", at_most(5),
    ),
    "sync_mix_cpu": Row("the same: CPU of both nodes", "CPU-s", 2, False, "≤ 3", at_most(3)),
    "sync_experiments_bytes": Row(
        "cold sync of 10,000 experiments: bytes on TCP, both ways", "MB", 2, False, "≤ 5", at_most(5),
    ),
    "sync_experiments_cpu": Row("the same: CPU of both nodes", "CPU-s", 2, False, "≤ 3", at_most(3)),
    "missing_bytes": Row(
        "10 old records missing of 10,000, on reconnect: bytes on TCP, both ways", "KB", 1, False, "≤ 20", at_most(20),
    ),
    "missing_cpu": Row("the same: CPU of both nodes", "CPU-s", 3),
    "missing_trips": Row("the same: round trips after the handshake", "round trips", 0, False, "≤ 4", at_most(4)),
    "missing_recovered": Row(
        "the same: records recovered", "of 10", 0, True, "10", at_least(10),
    ),
    "restart_bytes": Row(
        "restart in a mesh of three that holds 10,000, nothing new: bytes on TCP, both ways", "KB", 1, False,
        "≤ 10", at_most(10),
    ),
    "restart_cpu": Row("the same: CPU of all three from the dial on", "CPU-s", 3),
    "spread_ms": Row(
        "publish → stored on disk by all of 8 nodes, fully connected", "ms (wall)", 1, False, "≤ Spore", not_over_peer,
    ),
    "spread_bodies": Row(
        "the same: bodies sent for each that is needed", "bodies/needed", 2, False, "≤ 1.3", at_most(1.3),
    ),
    "frontier_ms": Row("frontier query", "CPU-ms", 2, False, "≤ 1", at_most(1)),
    "overview_kb": Row("first view of the explorer: compressed bytes", "KB", 1, False, "≤ 45", at_most(45)),
    "overview_steps": Row(
        "first view of the explorer: SQLite VM steps", "1,000 steps", 0, False, "≤ 600", at_most(600),
    ),
    "overview_ms": Row("first view of the explorer: CPU of the server", "CPU-ms", 0),
    "replay_segment": Row(
        "replay one segment of a run (T2), against the whole rerun", "share of the run's CPU", 3, False,
    ),
    "replay_probe": Row(
        "check two blocks of the published weights (T1), against the whole rerun", "share of the run's CPU", 4,
    ),
    "run_cpu": Row("one experiment on the task pico", "CPU-s", 2, False, "≤ 20 (any task)", at_most(20)),
    "live_cost": Row(
        "live mesh of three: CPU of all evidence / CPU of the verified experiments", "share", 3, False,
    ),
    "live_rounds": Row("live mesh of three: from acknowledged to verdict", "rounds", 0),
    "live_verdicts": Row("live mesh of three: claims with a verdict", "claims", 0, True),
    "live_accepted": Row("live mesh of three: honest claims accepted, of those with a verdict", "share", 2, True),
    "merge_mean_cpu": Row("merge 8 × 25 M parameters, weighted mean in integers (`mean/1`), files to file", "CPU-s", 2),
    "merge_copy_cpu": Row("for comparison: read the eight files and write one, nothing else", "CPU-s", 2),
    "merge_mean_over_torch": Row(
        "`mean/1` against plain in-place torch fp32", "ratio of CPU", 2, False, "≤ 1.5", at_most(1.5),
    ),
    "merge_crdt_over_mean": Row(
        "crdt-merge's `weight_average`, the arithmetic alone, against `mean/1`", "ratio of CPU", 1, True,
        "≥ 10", at_least(10),
    ),
    "merge_crdt_state_over_mean": Row(
        "crdt-merge's `CRDTMergeState`, free of order as ours is, against `mean/1`", "ratio of CPU", 1, True,
        "≥ 10", at_least(10),
    ),
    "merge_linear_over_mean": Row("mergekit's `linear` against `mean/1`", "ratio of CPU", 2, True),
    "merge_trimmed_cpu": Row("merge the same, clipped and trimmed (`trimmed/1`)", "CPU-s", 2),
    "merge_ties_over_trimmed": Row(
        "mergekit's `ties` against `trimmed/1`", "ratio of CPU", 1, True, "≥ 5", at_least(5),
    ),
    "merge_trimmed_over_torch": Row("`trimmed/1` against plain torch's mean (which sorts nothing)", "ratio of CPU", 1),
    **{
        f"merge_{kind}_memory": Row(f"{title}: growth of peak memory", "MB", 0, False, *target)
        for kind, title, *target in (
            ("mean", "`mean/1`", "≤ 100", at_most(100)), ("trimmed", "`trimmed/1`", "≤ 100", at_most(100)),
            ("torch", "plain torch"), ("crdt", "crdt-merge's `weight_average`"),
            ("crdt_state", "crdt-merge's `CRDTMergeState`"), ("linear", "mergekit's `linear`"),
            ("ties", "mergekit's `ties`"),
        )
    },
    **{
        f"merge_{kind}_apart": Row(f"{title}: furthest from the mean in float64, of 2.5 M weights", "10⁻⁹", 1)
        for kind, title in (
            ("mean", "`mean/1`"), ("torch", "plain torch"), ("crdt", "crdt-merge's `weight_average`"),
            ("crdt_state", "crdt-merge's `CRDTMergeState`"), ("linear", "mergekit's `linear`"),
        )
    },
    **{
        f"infer_{short}_{count}_{form}": Row(
            f"{title}, {'one item' if count == 1 else f'{count} items'}: {form} against the dense source in torch fp32",
            "ratio of CPU", 2, False,
        )
        for short, title in (
            ("minilm", "MiniLM (embedder)"), ("magika", "Magika (file types)"), ("digits", "digits (CNN)"),
            ("textgen", "textgenrnn (LSTM)"), ("vad", "Silero VAD"), ("wordllama", "wordllama (static embedder)"),
        )
        for count in (1, 32)
        for form in ("simulation", "engine")
    },
    "infer_events_10": Row(
        "spiking product 1,536², batch 1, 10 % of inputs active: events against torch fp32", "times faster", 2, True,
    ),
    "infer_events_10_one": Row(
        "the same with one threshold for the layer", "times faster", 2, True, "≥ 3", at_least(3),
    ),
    "infer_events_10_one_int8": Row("the same against torch int8 (dynamic)", "times faster", 2, True),
    "infer_events_10_int8": Row("threshold per channel, against torch int8 (dynamic)", "times faster", 1, True),
    "infer_events_50": Row("50 % active: events against torch fp32", "times faster", 2, True),
    "infer_events_50_int8": Row("the same against torch int8 (dynamic)", "times faster", 2, True),
    "infer_dense_50": Row("50 % active: our exact dense path against torch fp32", "times faster", 2, True),
    "infer_events_csr": Row("95 % of weights zero, 50 % active: CSR against torch fp32", "times faster", 1, True),
    "infer_events_csr_int8": Row("the same against torch int8 (dynamic)", "times faster", 1, True),
    "infer_int8": Row("for comparison: torch int8 (dynamic) against torch fp32", "times faster", 1, True),
    "infer_block": Row("transformer block as spikes, layer by layer, against fp32", "ratio of CPU", 1),
    "help_ratio": Row("`borg --help` against a bare click program", "ratio of CPU", 2, False, "≤ 1.5", at_most(1.5)),
}  # fmt: skip


def missing(text: str) -> None:
    """Report what could not be measured, and why; no failure: the page says it."""
    print(MISSING + json.dumps(text, ensure_ascii=False) + "}", flush=True)


def emit(row: str, values: Sequence[float], note: str = "") -> None:
    """Report the repetitions of one measurement: one line of JSON on stdout."""
    if not values:
        raise ValueError(f"no value for {row}")
    print(
        MARK + json.dumps(row) + ", " + json.dumps({"values": [float(v) for v in values], "note": note})[1:],
        flush=True,
    )
