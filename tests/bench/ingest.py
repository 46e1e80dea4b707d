"""How fast a node takes in records: parse (canonical form, shape, signature), then insert on disk in batches.

    python tests/bench/ingest.py [RECORDS]

Prints one JSON object: records/s by the clock and by CPU second, for both steps and for reading back at a start.
Nothing is skipped: every record has its own signature, every batch its own transaction and flush.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from store_records import chain

from spore_borg.records.envelope import parse
from spore_borg.store.log import Log

BATCH = 256


def measure(count: int) -> dict[str, float]:
    """Sign ``count`` records (not measured), then take them in."""
    raws = [record.raw for record in chain(count)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.sqlite"
        with Log(path) as log:
            wall, cpu = time.perf_counter(), time.process_time()
            append_s = 0.0
            for start in range(0, count, BATCH):
                batch = [parse(raw) for raw in raws[start : start + BATCH]]
                before = time.perf_counter()
                assert all(log.append(batch))
                append_s += time.perf_counter() - before
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size_bytes = sum(file.stat().st_size for file in Path(directory).iterdir())
        with Log(path) as log:
            scan = time.perf_counter()
            assert sum(1 for _ in log.scan()) == count
            scan = time.perf_counter() - scan
            keys = time.perf_counter()
            assert len(list(log.keys())) == count
            keys = time.perf_counter() - keys
    return {
        "records": count,
        "batch": BATCH,
        "record_bytes_mean": round(sum(map(len, raws)) / count),
        "disk_bytes_per_record": round(size_bytes / count),
        "ingest_records_per_s": round(count / wall),
        "ingest_records_per_cpu_s": round(count / cpu),
        "append_only_records_per_s": round(count / append_s),
        "scan_records_per_s": round(count / scan),
        "keys_records_per_s": round(count / keys),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000), indent=2))
