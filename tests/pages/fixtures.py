"""Home directories for the page tests: empty, one record, hostile strings, and a mesh of any size.

They hold what a node would hold: records as canonical bytes in ``log.sqlite`` and rows in ``views.sqlite``. Signatures
are random bytes (the explorer does not check them; the node did). Run as a script to look at one in a browser:
``python -m tests.pages.fixtures DIR --records 3000``.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

from spore_borg.records.cid import Cid
from tests.pages import fixtures_state
from tests.pages.maker import ONE, SIGMA, START_MS, Maker, node_name, text_of

__all__ = ["HOSTILE", "SIGMA", "TICKET", "Maker", "empty", "hostile", "mesh", "one"]
CLASSES = ("CPU_X86_64", "RTX_3060", "RTX_4090", "MPS", "H100")
TICKET = "borg1secretticket"  # in the table live, and never to be shown
IDEAS = (
    ("beta2 to .98", "beta2_e6", 950_000, 980_000),
    ("untie the output head", "tied", True, False),
    ("Muon for the matrices", "optimizer", "adamw", "muon"),
    ("embedding rate ×3", "lr_embed_e6", 3_000, 9_000),
    ("norm after the embedding", "embed_norm", False, True),
    ("zero-init the projections", "init_zero_proj", False, True),
    ("batch 512 tokens", "batch_tokens", 1_024, 512),
    ("warmdown over half", "warmdown_pct", 20, 50),
    ("depth 3", "depth", 4, 3),
    ("width 56", "width", 64, 56),
    ("weight decay .05", "weight_decay_e6", 0, 50_000),
    ("squared ReLU", "activation", "gelu", "relu2"),
)
ERRORS = (
    "loss is not finite at step {0}",
    "loss is not finite at step {0}",
    "CUDA out of memory. Tried to allocate {0}.00 MiB (GPU 0; 23.69 GiB total capacity)",
    "shape '[4, 64, {0}]' is invalid for input of size 1024",
    'File "/srv/node{0}/site-packages/torch/nn/functional.py", line {0}: heads must divide the width',
    "the worker took longer than {0} s",
    "gradient norm {0}.5 exceeds the limit in layer {0}",
)  # of which numbers and paths are no part
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(1)",
    "https://evil.example/steal",
    "\u202ereversed\u202c and \u0007bell\x00nul",
    "'; DROP TABLE record; --",
    "]]></svg><a href='http://evil.example'>x</a>",
    "A" * 4000,
    "🧪 Ünïcødé \u200bzero width",
)


def empty(home: Path) -> Path:
    """Tables without a row."""
    return Maker(home, random.Random(1)).commit()


def one(home: Path) -> Path:
    """A node alone with its mesh, one task and one experiment."""
    make = Maker(home, random.Random(2))
    me = make.rng.randbytes(32)
    mesh = make.genesis(me, "alone")
    make.node(
        me, CLASSES[0], ONE, root=1, influence_ppm=1_000_000, digest="d1" * 32, digest_round=3, last_epoch=4
    )
    task = make.task(me, "nano", 400_000_000_000)
    cid = make.experiment(me, 2, task, CLASSES[0], frontier=1, frontier_why="It is the only one.", settled=1)
    step = {
        "task": text_of(task),
        "class": CLASSES[0],
        "step": 0,
        "cid": text_of(cid),
        "recipe_digest": cid.digest.hex(),
    }
    make.insert("frontier", **step, seq=make.seq, metric=2_271_543_210, runs=1, gain=None, threshold=0, round=3,
                author=node_name(me), verdicts=0, status="solo")  # fmt: skip
    make.insert(
        "round", round=3, epoch=3, seals=1, trust=ONE, trust_total=ONE, acknowledged=1, digest="d1" * 32
    )
    make.shard(
        me, 3, task, CLASSES[0], member=2, verdict="unverified", standing="Nobody else has verified it."
    )
    make.meta(mesh=mesh, mesh_name="alone", round=4, round_settled=3, epoch_latest=4, digest="d1" * 32, version=7,
              records=make.seq, me=node_name(me), status="solo")  # fmt: skip
    return make.commit()


def hostile(home: Path) -> Path:
    """Every text that a stranger controls is an attack on the page."""
    make = Maker(home, random.Random(3))
    me, other = make.rng.randbytes(32), make.rng.randbytes(32)
    mesh = make.genesis(me, HOSTILE[0])
    profile = json.dumps({"display_name": HOSTILE[1], "website": HOSTILE[4], "bio": HOSTILE[5]})
    bad_class = HOSTILE[1]
    make.node(me, bad_class, 3 * ONE, display=HOSTILE[0], profile=profile, device=HOSTILE[7], role=HOSTILE[2])
    make.node(other, HOSTILE[3], 0, display=HOSTILE[5], banned=1, banned_cause=str(mesh))
    task = make.task(me, HOSTILE[1], 10**12)
    make.views.execute(
        "UPDATE task SET metric=?, unit=?, body=?", (HOSTILE[0], HOSTILE[7], json.dumps(HOSTILE))
    )
    base: str | None = None
    for i, text in enumerate(HOSTILE):
        changed = json.dumps([[text, text, HOSTILE[(i + 1) % len(HOSTILE)]], ["bad"], 7])
        cid = make.experiment(
            me, i + 1, task, bad_class, title=text, why=text, operator=text, changed=changed, base=base,
            recipe=json.dumps({text: text, "n": 10**30}), error=text, reason=text, frontier_why=text,
            metric=2_200_000_000 - i * 10_000_000, gain=10_000_000, frontier=2, verdict="confirmed", curve='"no list"',
        )  # fmt: skip
        base = text_of(cid)
        step = {"task": text_of(task), "class": bad_class, "step": i, "cid": base, "recipe_digest": "00"}
        make.insert("frontier", **step, seq=make.seq, metric=2_200_000_000 - i * 10_000_000, runs=1, gain=10_000_000,
                    threshold=1, round=i, author=node_name(me), verdicts=1, status="confirmed")  # fmt: skip
        attested = {
            "target": base,
            "claim": base,
            "author": node_name(other),
            "class": text,
            "drawn": 1,
            "jury": 0,
        }
        make.insert(
            "attestation",
            **attested,
            tier=text,
            word=text,
            probe=text,
            delta=text,
            tolerance=text,
            detail=text,
        )
        make.insert(
            "ledger", node=node_name(me), round=i, rule=text, amount=ONE, total=ONE, cause=base, sentence=text
        )
        queued = {
            "claim": base,
            "target": base,
            "task": text_of(task),
            "author": node_name(me),
            "class": text,
        }
        parts = json.dumps({text: 3})
        make.insert(
            "queue",
            **queued,
            stage=text,
            priority=3,
            parts=parts,
            drawn="{}",
            waiting_for="no",
            sentence=text,
        )
        _hostile_failure(make, i, text, base)
    _hostile_live(make)
    make.meta(mesh=mesh, mesh_name=HOSTILE[0], round=12, round_settled=8, epoch_latest=12, digest=HOSTILE[0], version=1,
              records=make.seq, me=node_name(me), status="mesh")  # fmt: skip
    return make.commit()


def _hostile_failure(make: Maker, number: int, text: str, cid: str) -> None:
    signature = f"{number:012x}"
    make.insert(
        "failure", signature=signature, text=text, example=text, runs=number, authors=-number, classes=text,
        tasks=json.dumps([text, 7]), fields=json.dumps([[text, 3, [text, None, {}]], 7, [text, "x", 1]]),
        flops=10**15, first_epoch=0, last_epoch=number, last_seq=make.seq, last_cid=cid, fixed_by=cid, fixed_runs=1,
    )  # fmt: skip
    make.insert("failure_run", signature=signature, seq=make.seq, cid=cid, fixed_by=cid)
    make.insert("failure_word", word=text, signature=signature)


def _hostile_live(make: Maker) -> None:
    """What a node that lies would say of itself, its peers and a round."""
    run = {"task": HOSTILE[0], "change": HOSTILE[1], "step": 3, "steps": 0, "loss": HOSTILE[2], "eta_s": -1}
    make.insert("live", key="run", value=json.dumps(run))
    make.insert("live", key="verify", value=json.dumps({HOSTILE[0]: HOSTILE[1]}))
    make.insert("live", key="node", value=json.dumps({"address": HOSTILE[4]}))
    fixtures_state.hostile(make, HOSTILE)
    peers: list[object] = [{"node": text, "address": text, "agent": text, "role": text, "direction": text,
                            "latency_ms": 1e300, "behind": text, "synced": []} for text in HOSTILE]  # fmt: skip
    make.insert("live", key="peers", value=json.dumps([*peers, 7, None]))
    make.insert(
        "round", round=5, epoch=5, seals=-3, trust=1 << 60, trust_total=0, acknowledged=0, digest=HOSTILE[1]
    )


@dataclass
class Line:
    """The frontier of one task and class while it is made."""

    task: Cid
    hardware_class: str
    best: int = 2_271_543_210
    best_cid: str | None = None
    steps: int = 0
    depth: int = 0


def mesh(home: Path, records: int = 3000, seed: int = 4) -> Path:
    """A living mesh: 12 nodes, 2 tasks, 5 classes; three in four records are experiments."""
    make = Maker(home, random.Random(seed))
    rng = make.rng
    keys = [rng.randbytes(32) for _ in range(12)]
    genesis = make.genesis(keys[0], "garden")
    tasks = [make.task(keys[0], "nano", 400_000_000_000), make.task(keys[0], "pico", 30_000_000_000)]
    weights = ((tasks[0], 0, 6), (tasks[0], 1, 3), (tasks[0], 3, 1), (tasks[1], 0, 2), (tasks[1], 4, 1))
    lines = [Line(task, CLASSES[index]) for task, index, share in weights for _ in range(1)]
    shares = [share for _, _, share in weights]
    totals = dict.fromkeys(keys, ONE)
    pending = max(6, min(60, records // 50))
    while make.seq < records:
        epoch = 1 + make.seq // 40
        author = rng.choice(keys)
        if rng.random() < 0.25 and make.seq < records - pending:
            _other(make, rng, author, epoch)
            continue
        line = rng.choices(lines, shares)[0]
        _run(make, rng, keys, author, epoch, line, totals, young=make.seq >= records - pending)
    last = 1 + records // 40
    _nodes(make, keys, totals, last, genesis)
    for round_ in range(max(0, last - 200), last + 1):
        digest = rng.randbytes(32).hex() if round_ != last - 4 else "ab" * 32
        make.insert("round", round=round_, epoch=round_, seals=11, trust=8 * ONE, trust_total=9 * ONE, acknowledged=9,
                    digest=digest)  # fmt: skip
    make.failures()
    fixtures_state.health(make, last - 4)
    fixtures_state.absorbed(make, keys, tasks[0], last)
    run = {
        "task": "nano",
        "change": "width 64→56",
        "step": 412,
        "steps": 780,
        "loss": 3_104_000,
        "eta_s": 9.2,
    }
    make.insert("live", key="run", value=json.dumps(run))
    make.insert(
        "live", key="verify", value=json.dumps({"claim": text_of(genesis), "tier": "T2", "segment": 3})
    )
    peers = [{"node": node_name(key), "name": node_name(key), "address": f"127.0.0.1:{9000 + index}",
              "agent": "spore-borg/0.1.0", "direction": "in" if index % 2 else "out", "role": "research",
              "latency_ms": 0.7 * 3**index, "behind": index * 7 % 5, "lag": index % 3, "queued_bytes": 900 * index,
              "rejected": 0, "synced": index != 3} for index, key in enumerate(keys[1:6])]  # fmt: skip
    make.insert("live", key="peers", value=json.dumps(peers))
    make.insert(
        "live",
        key="node",
        value=json.dumps({"pid": 4711, "address": "127.0.0.1:8469", "mode": "research", "ticket": TICKET}),
    )
    make.meta(time_ms=START_MS, epoch_ms=20_000)
    make.meta(mesh=genesis, mesh_name="garden", round=last, round_settled=last - 4, epoch_latest=last,
              digest="ab" * 32, version=make.seq, records=make.seq, me=node_name(keys[0]), status="mesh")  # fmt: skip
    return make.commit()


def _other(make: Maker, rng: random.Random, author: bytes, epoch: int) -> None:
    kind = rng.choice(("seal", "seal", "seal", "attest_commit", "open", "attest_reveal"))
    body: dict[str, object] = {"value": rng.randbytes(32), "round": max(0, epoch - 4), "digest": None}
    make.record(
        kind, author, epoch, body, title=f"{kind} of epoch {epoch}", target=make.mesh, round_=epoch + 1
    )


def _nodes(make: Maker, keys: list[bytes], totals: dict[bytes, int], last: int, cause: Cid) -> None:
    names = (
        "Ada",
        "kiln",
        None,
        "moss",
        "Grace",
        None,
        "fern",
        "tofu",
        None,
        "lichen",
        "late riser",
        "cheat",
    )
    trust = {key: max(0, total - ONE) for key, total in totals.items()}
    everything = sum(trust.values()) or 1
    for index, key in enumerate(keys):
        banned = index == 11
        profile = (
            json.dumps({"display_name": names[index], "bio": "A node in a cupboard."})
            if names[index]
            else None
        )
        make.node(
            key, CLASSES[index % 5], 0 if banned else trust[key], display=names[index], root=int(index < 2),
            score=0 if banned else totals[key], frauds=ONE if banned else 0, banned=int(banned), profile=profile,
            influence_ppm=0 if banned else min(250_000, trust[key] * 1_000_000 // everything),
            banned_cause=text_of(cause) if banned else None, last_epoch=last - (index == 10) * 60, records=900 + index,
            experiments=600 + index, attestations=150 + index, digest="ab" * 32 if index != 10 else "cd" * 32,
            digest_round=last - 4, device="8 cores, 16 GB",
        )  # fmt: skip


def _run(
    make: Maker, rng: random.Random, keys: list[bytes], author: bytes, epoch: int, line: Line,
    totals: dict[bytes, int], *, young: bool,
) -> None:  # fmt: skip
    """One experiment with its evidence and ledger entries, sometimes a frontier step."""
    idea, name, before, after = rng.choice(IDEAS)
    crashed = rng.random() < 0.03
    room = line.best - 2_060_000_000
    better = line.best_cid is None or (not young and rng.random() < 0.02 * room / 200_000_000)
    jump = int(room * rng.uniform(0.03, 0.14)) if better and line.best_cid else 0
    metric = line.best - jump if better else line.best + int(rng.expovariate(1 / 30_000_000)) + 1_000_000
    verdict = (
        "confirmed"
        if better
        else rng.choices(("unverified", "confirmed", "refuted", "inconclusive"), (6, 3, 0.2, 0.2))[0]
    )
    stage = (
        rng.choice(("received", "waiting", "drawn", "committed", "opened"))
        if young and not better
        else "settled"
    )
    if stage != "settled" or crashed:
        verdict = "unverified"
    better = better and not crashed
    gain = None if line.best_cid is None else line.best - metric
    words = {"confirmed": "All drawn nodes agree.", "refuted": "A drawn node computed another loss.",
             "inconclusive": "The two drawn nodes differ; a split decides nothing.",
             "unverified": "Nobody was drawn." if stage == "settled" else "It waits for the drawn nodes."}  # fmt: skip
    cid = make.experiment(
        author, epoch, line.task, line.hardware_class, title=idea, base=line.best_cid, depth=line.depth,
        operator=rng.choice(("deck", "mutation", "tpe", "crossover", "random")), why=f"{idea} helped its neighbours.",
        changed=json.dumps([[name, before, after]]) if line.best_cid else "[]", metric=None if crashed else metric,
        gain=None if crashed else gain, outcome="crashed" if crashed else "kept" if metric < line.best else "discarded",
        verdict=verdict, stage=stage, reason=words[verdict], settled=int(not young),
        round_settled=epoch + 4 if verdict != "unverified" else None, frontier=2 if better else 0,
        frontier_why="It beat the best by more than the noise." if better else "It is not better than the best.",
        error=ERRORS[make.seq % len(ERRORS)].format(make.seq) if crashed else None,
    )  # fmt: skip
    if verdict != "unverified" and (better or rng.random() < 0.3):
        _evidence(make, rng, keys, author, epoch, line, cid, verdict, totals)
    if stage != "settled":
        text = text_of(cid)
        queued = {"claim": text, "target": text, "task": text_of(line.task), "class": line.hardware_class}
        drawn = [node_name(k) for k in rng.sample(keys, 2)] if stage not in {"received", "waiting"} else []
        parts = {"gain": rng.randrange(900), "age": rng.randrange(60), "new key": rng.choice((0, 200))}
        make.insert("queue", **queued, author=node_name(author), stage=stage, priority=sum(parts.values()),
                    parts=json.dumps(parts), drawn=json.dumps(drawn), waiting_for=json.dumps(drawn[:1]),
                    round_deadline=epoch + 5, sentence=words["unverified"])  # fmt: skip
    if better:
        if line.best_cid:
            make.views.execute("UPDATE experiment SET frontier=2 WHERE cid=?", (line.best_cid,))
        make.views.execute("UPDATE experiment SET frontier=1 WHERE cid=?", (text_of(cid),))
        step = {
            "task": text_of(line.task),
            "class": line.hardware_class,
            "step": line.steps,
            "cid": text_of(cid),
        }
        make.insert("frontier", **step, recipe_digest=cid.digest.hex(), seq=make.seq, metric=metric, runs=1, gain=gain,
                    threshold=10_000_000, round=epoch + 4, author=node_name(author), verdicts=2,
                    status="confirmed")  # fmt: skip
        line.best, line.best_cid, line.steps, line.depth = (
            metric,
            text_of(cid),
            line.steps + 1,
            line.depth + 1,
        )


def _evidence(
    make: Maker, rng: random.Random, keys: list[bytes], author: bytes, epoch: int, line: Line, cid: Cid, verdict: str,
    totals: dict[bytes, int],
) -> None:  # fmt: skip
    for tier, verifier in zip(("T1", "T2"), rng.sample(keys, 2), strict=True):
        word = {"confirmed": "pass", "refuted": "fail"}.get(verdict, "void")
        probe = (
            "Losses of 4 of 64 blocks of the published weights."
            if tier == "T1"
            else "Segment 3 of 10, step 41."
        )
        row = {
            "target": text_of(cid),
            "claim": text_of(cid),
            "author": node_name(verifier),
            "class": line.hardware_class,
        }
        delta = (
            ("3.1e-8" if word == "pass" else "4.2e-2")
            if tier == "T1"
            else ("0" if word == "pass" else "differs")
        )
        make.insert("attestation", **row, drawn=1, jury=0, commit_cid=text_of(make.mesh), reveal_cid=text_of(make.mesh),
                    tier=tier, word=word, probe=probe, delta=delta, tolerance="1e-5" if tier == "T1" else "0",
                    detail="{}", round=epoch + 3)  # fmt: skip
        _pay(
            make,
            verifier,
            epoch,
            "correct evidence",
            ONE // 25,
            cid,
            f"{tier} evidence agreed with the verdict.",
            totals,
        )
    if verdict == "confirmed":
        _pay(
            make,
            author,
            epoch,
            "audited result",
            ONE // 2,
            cid,
            "A result that drawn nodes have confirmed.",
            totals,
        )


def _pay(
    make: Maker,
    key: bytes,
    epoch: int,
    rule: str,
    amount: int,
    cause: Cid,
    why: str,
    totals: dict[bytes, int],
) -> None:
    totals[key] = min(totals[key] + amount, 40 * ONE)
    make.insert("ledger", node=node_name(key), round=epoch + 4, rule=rule, amount=amount, total=totals[key],
                cause=text_of(cause), sentence=why)  # fmt: skip


def main() -> None:
    """Make a mesh to look at."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--kind", choices=("empty", "one", "hostile", "mesh"), default="mesh")
    options = parser.parse_args()
    made = {"empty": empty, "one": one, "hostile": hostile}.get(options.kind)
    print(made(options.home) if made else mesh(options.home, options.records))


if __name__ == "__main__":
    main()
