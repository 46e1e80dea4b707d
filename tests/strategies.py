"""Hypothesis strategies: canonical values, bodies of every kind, signed records, small closed DAGs.

Sizes are kept small where only the shape matters and reach the bounds where a bound matters.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from spore_borg.limits import BLOCKS_MAX, CURVE_POINTS_MAX, SEGMENTS_MAX
from spore_borg.records import bodies, envelope, keys
from spore_borg.records.cid import DAG_CBOR, RAW, Cid
from spore_borg.records.merkle import LOSS_MAX

U63 = (1 << 63) - 1
SIGNERS = tuple(keys.SigningKey(bytes((number,)) * 32) for number in range(1, 6))


def numbers(low: int = 0, high: int = U63) -> st.SearchStrategy[int]:
    """Whole numbers; both bounds come often."""
    return st.one_of(
        st.integers(low, min(high, low + 300)), st.integers(low, high), st.sampled_from((low, high))
    )


def words(size_max: int) -> st.SearchStrategy[str]:
    """Text of at most ``size_max`` UTF-8 bytes, without surrogates."""
    return st.text(st.characters(codec="utf-8"), max_size=min(size_max, 12)).filter(
        lambda text: len(text.encode()) <= size_max
    )


def octets(size: int) -> st.SearchStrategy[bytes]:
    """Exactly ``size`` bytes."""
    return st.binary(min_size=size, max_size=size)


def cids(*codecs: int) -> st.SearchStrategy[Cid]:
    """Any cid; of records only with ``cids(DAG_CBOR)``."""
    return st.builds(Cid.from_digest, octets(32), st.sampled_from(codecs or (DAG_CBOR, RAW)))


def rows(shape: st.SearchStrategy[Any], most: int, least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    """Tuples of the shape; short, since length is tested apart."""
    return st.lists(shape, min_size=least, max_size=min(most, least + 4)).map(tuple)


def flat_maps(most: int = 64) -> st.SearchStrategy[dict[str, Any]]:
    """Recipes and parameters."""
    return st.dictionaries(
        words(256), st.one_of(numbers(-U63), st.booleans(), words(256)), max_size=min(most, 6)
    )


def values() -> st.SearchStrategy[Any]:
    """Whatever a record may hold."""
    scalar = st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 63), U63), numbers(-(1 << 63)), st.binary(max_size=300),
        words(300), cids(),
    )  # fmt: skip
    return st.recursive(
        scalar,
        lambda inner: st.one_of(st.lists(inner, max_size=30), st.dictionaries(words(40), inner, max_size=30)),
        max_leaves=40,
    )


def _experiments() -> st.SearchStrategy[bodies.Experiment]:
    common: dict[str, Any] = {
        "task": cids(), "bases": st.lists(cids(), max_size=2, unique=True).map(tuple), "recipe": flat_maps(),
        "operator": words(32), "why": words(280), "intent": cids(), "seed": octets(8), "family": words(64),
        "fingerprint": octets(32), "error": words(500), "states": rows(cids(), SEGMENTS_MAX),
        "params_count": numbers(), "steps": numbers(), "flops": numbers(), "cpu_ms": numbers(),
        "curve": rows(numbers(), CURVE_POINTS_MAX),
    }  # fmt: skip
    claims: dict[str, Any] = {
        "metric": numbers(), "loss_root": octets(32), "loss_sum": numbers(), "state_root": octets(32),
        "weights": cids(), "params": octets(32),
    }  # fmt: skip
    return st.one_of(
        st.builds(bodies.Experiment, outcome=st.sampled_from(("kept", "discarded")), **common, **claims),
        st.builds(
            bodies.Experiment, outcome=st.just("crashed"), **common, **dict.fromkeys(claims, st.none())
        ),
    )


_FILES = ("config.json", "model.onnx", "onnx/model.onnx", "vocab.txt")


def _absorptions(kind: type[bodies.Absorption], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.lists(st.sampled_from(_FILES), min_size=1, max_size=4, unique=True).map(sorted)
    sources = names.flatmap(lambda chosen: st.tuples(*(st.tuples(st.just(name), cids()) for name in chosen)))
    links = st.lists(cids(), max_size=6, unique=True).map(lambda found: tuple(sorted(found)))
    sources = more.pop("sources", sources)
    return st.builds(
        kind, task=cids(), sources=sources, origin=words(300), licence=words(200), name=words(200),
        head=st.sampled_from(bodies.HEADS), modality=st.sampled_from(bodies.MODALITIES), rule=words(64),
        steps=numbers(1, bodies.TIME_STEPS_MAX), state=links, operator=words(32), why=words(280), family=words(64),
        fingerprint=octets(32), outcome=st.sampled_from(("kept", "discarded")), metric=numbers(),
        loss_root=octets(32), loss_sum=numbers(), state_root=octets(32), weights=cids(), params=octets(32),
        params_count=numbers(), layers=numbers(), sparsity_ppm=numbers(0, 1_000_000), cpu_ms=numbers(),
        source_bytes=numbers(), shard_bytes=numbers(), ops=numbers(),
        groups=st.sets(numbers(0, SEGMENTS_MAX - 1), min_size=1).map(lambda found: tuple(sorted(found))), **more,
    )  # fmt: skip


def _merges() -> st.SearchStrategy[Any]:
    inputs = st.lists(cids(), min_size=2, max_size=16, unique=True).map(lambda found: tuple(sorted(found)))
    sources = st.tuples(st.tuples(st.just("00/a"), cids()), st.tuples(st.just("01/a"), cids()))

    def with_weights(chosen: tuple[Any, ...]) -> st.SearchStrategy[Any]:
        weights = st.tuples(*(numbers(1, bodies.INCOME_MAX) for _ in chosen))
        more = {"inputs": st.just(chosen), "incomes": weights, "merging": st.sampled_from(bodies.MERGINGS)}
        return _absorptions(bodies.Merge, **{**more, "sources": sources, "base": st.none() | cids()})

    return inputs.flatmap(with_weights)


BODIES: dict[str, st.SearchStrategy[Any]] = {
    "genesis": st.builds(
        bodies.Genesis, name=words(64), roots=rows(octets(32), 16, 1), time_ms=numbers(),
        epoch_ms=numbers(200, 86_400_000), nonce=octets(16), params=flat_maps(),
    ),
    "join": st.builds(
        bodies.Join, family=words(64), device=words(128), memory_mb=numbers(), cores=numbers(0, 1 << 20),
        fingerprint=octets(32), anchor=octets(32), role=st.sampled_from(("research", "verify", "sync")),
        agent=words(64), invite=st.none() | st.tuples(cids(), octets(64)), stamp=st.none() | octets(16),
        verify_bytes=numbers(), verify_ops=numbers(),
    ),
    "invite": st.builds(
        bodies.Invite, key=octets(32), endowment=numbers(0, 4 * bodies.ONE), uses=numbers(1, 64), until=numbers()
    ),
    "profile": st.builds(
        bodies.Profile, display_name=words(64), bio=words(500), website=words(200), avatar_url=words(200),
        donation_address=words(200),
    ),
    "seal": st.builds(bodies.Seal, value=octets(32), round=numbers(), digest=st.none() | octets(32)),
    "task": st.builds(
        bodies.Task, name=words(64), metric=words(64), direction=st.just("min"), unit=words(64), sigma=numbers(),
        gain_min=numbers(), budget_flops=numbers(1), segments=numbers(1, SEGMENTS_MAX),
        blocks=numbers(1, BLOCKS_MAX), block_tokens=numbers(1, 1 << 24), val_bytes=numbers(1),
        tolerance=numbers(), data=cids(), evaluator=octets(32), spec=flat_maps(), baseline=flat_maps(),
    ),
    "intent": st.builds(
        bodies.Intent, task=cids(), bases=st.lists(cids(), max_size=2, unique=True).map(tuple), recipe=octets(32),
        until=numbers(),
    ),
    "experiment": _experiments(),
    "absorption": _absorptions(bodies.Absorption),
    "refinement": _absorptions(bodies.Refinement, base=cids()),
    "merge": _merges(),
    "retract": st.builds(bodies.Retract, target=cids(), why=words(280)),
    "announce": st.builds(bodies.Announce, target=cids()),
    "attest_commit": st.builds(
        bodies.AttestCommit, target=cids(), digest=octets(32),
        named=st.none() | st.tuples(numbers(0, 2), numbers(0, BLOCKS_MAX)),
    ),
    "open": st.builds(
        bodies.Open, target=cids(), commits=rows(cids(), 64), loss_secret=octets(32),
        losses=rows(numbers(0, LOSS_MAX), BLOCKS_MAX, 1), state_secret=octets(32),
        digests=rows(octets(32), SEGMENTS_MAX + 1, 2), tail=octets(32),
        inner=rows(st.tuples(numbers(0, SEGMENTS_MAX), numbers(), octets(32)), 4),
    ),
    "attest_reveal": st.builds(
        bodies.AttestReveal, target=cids(), commit=cids(), nonce=octets(16), params=st.none() | octets(32),
        losses=rows(st.tuples(numbers(0, BLOCKS_MAX), numbers(0, LOSS_MAX)), BLOCKS_MAX),
        segments=rows(
            st.tuples(numbers(0, SEGMENTS_MAX), numbers(), octets(32), octets(32), octets(32)), SEGMENTS_MAX
        ),
        steps=rows(st.tuples(numbers(0, 1024), numbers(0, bodies.STEP_PPM_MAX)), 8),
        cpu_ms=numbers(),
    ),
    "trace": st.builds(
        bodies.Trace, target=cids(), segment=numbers(0, SEGMENTS_MAX), digests=rows(octets(32), 1024, 2),
    ),
    "trace_states": st.builds(
        bodies.TraceStates, target=cids(), segment=numbers(0, SEGMENTS_MAX),
        states=rows(st.tuples(numbers(1, 1024), cids(), cids()), 8),
    ),
}  # fmt: skip


def any_body() -> st.SearchStrategy[Any]:
    """A valid body of any kind."""
    return st.one_of(*BODIES.values())


@st.composite
def records(draw: st.DrawFn, kind: str | None = None) -> envelope.Record:
    """One valid signed record of the kind (any if None), in a context made up for it."""
    chosen = kind or draw(st.sampled_from(sorted(BODIES)))
    body, key = draw(BODIES[chosen]), draw(st.sampled_from(SIGNERS))
    if chosen == "genesis":
        return envelope.sign(key, body, mesh=None, seq=0, prev=None, epoch=0, parents=())
    parents = draw(st.lists(cids(DAG_CBOR), min_size=1, max_size=5))
    prev = draw(st.none() | st.sampled_from(parents) | cids(DAG_CBOR))
    seq = 0 if prev is None else draw(numbers(1, 1 << 40))
    epoch = draw(numbers(0, 1 << 40))
    mesh = draw(cids(DAG_CBOR))
    return envelope.sign(key, body, mesh=mesh, seq=seq, prev=prev, epoch=epoch, parents=tuple(parents))


_LIGHT = ("announce", "intent", "profile", "seal")


@st.composite
def dags(draw: st.DrawFn, size_max: int = 12) -> list[envelope.Record]:
    """A closed set of admissible records of one mesh: genesis first, every record after its past."""
    genesis = envelope.sign(
        SIGNERS[0], draw(BODIES["genesis"]), mesh=None, seq=0, prev=None, epoch=0, parents=()
    )
    found = [genesis]
    last: dict[bytes, envelope.Record] = {genesis.author: genesis}
    for _ in range(draw(st.integers(0, size_max - 1))):
        key = draw(st.sampled_from(SIGNERS))
        before = last.get(key.public)
        past = draw(
            st.lists(st.sampled_from(found), min_size=1, max_size=4, unique_by=lambda record: record.cid)
        )
        seen = past if before is None else [*past, before]
        record = envelope.sign(
            key,
            draw(BODIES[draw(st.sampled_from(_LIGHT))]),
            mesh=genesis.cid,
            seq=0 if before is None else before.seq + 1,
            prev=None if before is None else before.cid,
            epoch=max(parent.epoch for parent in seen) + draw(st.integers(0, 2)),
            parents=tuple(parent.cid for parent in past),
        )
        if record.cid not in {other.cid for other in found}:
            found.append(record)
            last[key.public] = record
    return found
