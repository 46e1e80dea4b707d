"""A process to be killed: forks a child for every delay it reads, and ends the child with SIGKILL after that delay.

Forking from a process that has everything imported makes one kill cost milliseconds. The child opens the store anew,
writes without pause, and prints what it has acknowledged; a line counts only if it is whole.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from store_records import KEY, follow, genesis

from spore_borg.records.cid import Cid
from spore_borg.store.blobs import CHUNK_SIZE_BYTES, Blobs
from spore_borg.store.log import Log


def say(text: str) -> None:
    """Acknowledge on the pipe, in one write, past every buffer."""
    os.write(1, text.encode())


def write_records(path: Path) -> None:
    """Store batches of own records; publish each batch only when it is stored."""
    log = Log(path)
    root = genesis()
    if not log.has(root.cid):
        log.append([root])
        say(f"0={root.cid};\n")
    rng = random.Random(os.getpid())
    while True:
        if rng.random() < 0.5:
            record = log.append_own(KEY.public, lambda last: follow(root.cid, last, bio=os.urandom(4).hex()))
            say(f"{record.seq}={record.cid};\n")
            continue
        last = log.last_of(KEY.public)
        batch = []
        for _ in range(rng.randrange(1, 6)):
            record = follow(root.cid, last, bio=os.urandom(4).hex())
            last = (record.seq, record.cid)
            batch.append(record)
        log.append(batch)
        say(",".join(f"{record.seq}={record.cid}" for record in batch) + ";\n")


def blob_bytes(number: int) -> bytes:
    """The content of blob ``number``: several chunks, the last of them short."""
    rng = random.Random(number)
    return rng.randbytes(CHUNK_SIZE_BYTES * rng.randrange(1, 5) + rng.randrange(1, 999))


def write_blobs(path: Path) -> None:
    """Fetch blob after blob, chunk by chunk; acknowledge each chunk and each finished blob."""
    blobs = Blobs(path / "blobs")
    plan = path / "plan"
    number = int(plan.read_text()) if plan.exists() else 0
    while True:
        content = blob_bytes(number)
        cid, manifest = Blobs.manifest_of(content)
        if not blobs.has(cid):
            partial = blobs.begin(cid, manifest)
            for index in partial.missing():
                partial.write(index, content[index * CHUNK_SIZE_BYTES : (index + 1) * CHUNK_SIZE_BYTES])
                say(f"{number}={index};\n")
            partial.finish()
        say(f"{number}=done;\n")
        small = blobs.put_bytes(b"small %d" % number)
        say(f"{number}={small};\n")
        number += 1
        temporary = plan.with_suffix(".new")
        temporary.write_text(str(number))
        temporary.replace(plan)


def main() -> None:
    """Fork, wait, kill, report; once for every line on stdin."""
    what, path = sys.argv[1], Path(sys.argv[2])
    Cid.of(b"")  # imported here, so that no child pays for it
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                write_records(path) if what == "log" else write_blobs(path)
            finally:
                os._exit(1)
        time.sleep(float(line))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            say("the child ended by itself\n")
            os._exit(1)
        say("\nkilled\n")


if __name__ == "__main__":
    main()
