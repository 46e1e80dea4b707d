"""One dataclass per kind of record: its fields are its schema.

A field is declared by ``f(shape)``; ``from_map`` checks that exactly these fields are there and that each
has its shape. Digests and keys are bytes, metrics are integers in the task's unit, trust is in 2^-20.
Spec: spec/11-kinds.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, ClassVar, Self

from spore_borg.limits import (
    BLOCKS_MAX,
    CURVE_POINTS_MAX,
    MERGE_INPUTS_MAX,
    MERGE_SOURCES_MAX,
    SEGMENTS_MAX,
    SOURCES_MAX,
    STATE_MEMBERS_MAX,
)
from spore_borg.records import shapes as s
from spore_borg.records.cid import Cid
from spore_borg.records.merkle import LOSS_MAX
from spore_borg.records.reasons import Refused

ONE = 1 << 20  # one unit of trust
COMMITS_MAX = 64  # evidence answered by one opening
TRACE_STATES_MAX = 1_024  # states of one segment in a trace: 35 KiB of digests
JURY_STEPS_MAX = 8  # steps of one segment that a jury recomputes
STEP_PPM_MAX = 1_000_000_000  # a relative error that counts as infinite
OUTCOMES = ("kept", "discarded", "crashed")
HEADS = ("causal_lm", "masked_lm", "embedder", "classifier", "sequence_tagger", "forecaster", "unknown")
MODALITIES = ("text", "smiles", "image", "audio", "bytes")
TIME_STEPS_MAX = 32  # time steps T of a spike code
MERGINGS = ("mean/1", "trimmed/1")  # rules by which weights of one lineage become one
INCOME_MAX = 1 << 13  # weight of one input of a merge


def f(shape: s.Shape) -> Any:
    """A field with its shape."""
    return field(metadata={"shape": shape})


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What every body can do."""

    KIND: ClassVar[str] = ""

    @classmethod
    def from_map(cls, value: Any) -> Self:
        """Read a decoded map.

        Raises:
            Refused: ``bad-body``, with the field and what it should be.
        """
        if type(value) is not dict:
            raise Refused("bad-body", "a body is a map")
        declared = {item.name: item.metadata["shape"] for item in fields(cls)}
        if value.keys() != declared.keys():
            odd = ", ".join(sorted(map(ascii, set(value) ^ set(declared))))  # ascii: names come from a peer
            raise Refused("bad-body", f"{cls.KIND}: missing or superfluous: {odd[:200]}")
        checked = {}
        for name, shape in declared.items():
            try:
                checked[name] = shape(value[name])
            except (ValueError, UnicodeEncodeError) as error:
                raise Refused("bad-body", f"{cls.KIND}.{name} must be {error}") from error
        body = cls(**checked)
        body.check()
        return body

    def check(self) -> None:
        """Rules that tie several fields together; raises ``Refused``."""

    def to_map(self) -> dict[str, Any]:
        """The map that is encoded."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis(Body):
    """The first record: who is rooted, and the mesh's parameters."""

    KIND: ClassVar[str] = "genesis"
    name: str = f(s.text(64))
    roots: tuple[bytes, ...] = f(s.many(s.octets(32), 16, 1))
    time_ms: int = f(s.integer())  # start of epoch 0, for local clocks only
    epoch_ms: int = f(s.integer(200, 86_400_000))
    nonce: bytes = f(s.octets(16))
    params: dict[str, int | bool | str] = f(s.flat_map(64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Body):
    """A node enters, or replaces its onion or fingerprint."""

    KIND: ClassVar[str] = "join"
    family: str = f(s.text(64))  # hardware class: CPU_X86_64, RTX_3060, MPS, …
    device: str = f(s.text(128))
    memory_mb: int = f(s.integer())
    cores: int = f(s.integer(0, 1 << 20))
    fingerprint: bytes = f(s.octets(32))
    anchor: bytes = f(s.octets(32))
    role: str = f(s.one_of("research", "verify", "sync"))
    agent: str = f(s.text(64))
    invite: tuple[Cid, bytes] | None = f(s.maybe(s.row(s.link, s.octets(64))))
    stamp: bytes | None = f(s.maybe(s.octets(16)))
    # absorptions up to this cost are verified here: bytes of source and shard, operations an item
    verify_bytes: int = f(s.integer())
    verify_ops: int = f(s.integer())


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite(Body):
    """A trusted node opens the door once: whoever holds the one-time key gets the endowment."""

    KIND: ClassVar[str] = "invite"
    key: bytes = f(s.octets(32))
    endowment: int = f(s.integer(0, 4 * ONE))
    uses: int = f(s.integer(1, 64))
    until: int = f(s.integer())  # last epoch in which a join may use it


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Body):
    """Presentation only; shown as plain text."""

    KIND: ClassVar[str] = "profile"
    display_name: str = f(s.text(64))
    bio: str = f(s.text(500))
    website: str = f(s.text(200))
    avatar_url: str = f(s.text(200))
    donation_address: str = f(s.text(200))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal(Body):
    """One per live node and epoch: an onion value; the parents are what the node has seen."""

    KIND: ClassVar[str] = "seal"
    value: bytes = f(s.octets(32))
    round: int = f(s.integer())  # a settled round …
    digest: bytes | None = f(s.maybe(s.octets(32)))  # … and this node's view digest of it: a fork alarm only


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Body):
    """What is to be improved, how it is measured, and what a run may cost."""

    KIND: ClassVar[str] = "task"
    name: str = f(s.text(64))
    metric: str = f(s.text(64))
    direction: str = f(s.one_of("min"))
    unit: str = f(s.text(64))
    sigma: int = f(s.integer())  # noise of one run (sd), in the unit
    gain_min: int = f(s.integer())  # smallest gain that counts, in the unit
    budget_flops: int = f(s.integer(1))
    segments: int = f(s.integer(1, SEGMENTS_MAX))
    blocks: int = f(s.integer(1, BLOCKS_MAX))
    block_tokens: int = f(s.integer(1, 1 << 24))
    val_bytes: int = f(s.integer(1))
    tolerance: int = f(s.integer())  # |difference| of one block's loss that is still equal, nano-bits
    data: Cid = f(s.link)
    evaluator: bytes = f(s.octets(32))
    spec: dict[str, int | bool | str] = f(s.flat_map(64))  # the harness's own settings
    baseline: dict[str, int | bool | str] = f(s.flat_map(64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Body):
    """A run declared before its seed exists, and a short lease: this node is about to run this recipe."""

    KIND: ClassVar[str] = "intent"
    task: Cid = f(s.link)
    bases: tuple[Cid, ...] = f(s.many(s.link, 2))
    recipe: bytes = f(s.octets(32))
    until: int = f(s.integer())

    def check(self) -> None:
        """The bases are a set."""
        if len(set(self.bases)) != len(self.bases):
            raise Refused("bad-body", "intent: the bases are different records")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(Body):
    """A run and its claim. The loss root's sum is the metric; the state root pins the training."""

    KIND: ClassVar[str] = "experiment"
    task: Cid = f(s.link)
    bases: tuple[Cid, ...] = f(s.many(s.link, 2))
    recipe: dict[str, int | bool | str] = f(s.flat_map(64))
    operator: str = f(s.text(32))
    why: str = f(s.text(280))
    intent: Cid = f(s.link)  # that declared the run
    seed: bytes = f(s.octets(8))
    family: str = f(s.text(64))
    fingerprint: bytes = f(s.octets(32))
    outcome: str = f(s.one_of(*OUTCOMES))
    error: str = f(s.text(500))
    metric: int | None = f(s.maybe(s.integer()))
    loss_root: bytes | None = f(s.maybe(s.octets(32)))
    loss_sum: int | None = f(s.maybe(s.integer()))
    state_root: bytes | None = f(s.maybe(s.octets(32)))
    states: tuple[Cid, ...] = f(s.many(s.link, SEGMENTS_MAX))  # start states of segments 1 … K-1
    weights: Cid | None = f(s.maybe(s.link))
    params: bytes | None = f(s.maybe(s.octets(32)))
    params_count: int = f(s.integer())
    steps: int = f(s.integer())
    flops: int = f(s.integer())
    cpu_ms: int = f(s.integer())
    curve: tuple[int, ...] = f(s.many(s.integer(), CURVE_POINTS_MAX))

    def check(self) -> None:
        """A crash has no metric; anything else has every commitment."""
        claims = (self.metric, self.loss_root, self.loss_sum, self.state_root, self.weights, self.params)
        crashed = self.outcome == "crashed"
        if crashed != (self.metric is None) or any((claim is None) != crashed for claim in claims):
            raise Refused("bad-body", "experiment: a crash has no claims, any other outcome has all of them")
        if len(set(self.bases)) != len(self.bases):
            raise Refused("bad-body", "experiment: the bases are different records")


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorption(Body):
    """A model converted into a spiking shard, and what its author claims of it.

    The loss root commits to fidelity and to the probes before and after; the state root pins the conversion.
    """

    KIND: ClassVar[str] = "absorption"
    task: Cid = f(s.link)
    sources: tuple[tuple[str, Cid], ...] = f(s.many(s.row(s.text(200), s.link), SOURCES_MAX, 1))
    origin: str = f(s.text(300))
    licence: str = f(s.text(200))
    name: str = f(s.text(200))
    head: str = f(s.one_of(*HEADS))
    modality: str = f(s.one_of(*MODALITIES))
    rule: str = f(s.text(64))  # few-spike/1, rate/1
    steps: int = f(s.integer(1, TIME_STEPS_MAX))
    state: tuple[Cid, ...] = f(
        s.many(s.link, STATE_MEMBERS_MAX)
    )  # members of the modality when it was measured
    operator: str = f(s.text(32))
    why: str = f(s.text(280))
    family: str = f(s.text(64))
    fingerprint: bytes = f(s.octets(32))
    outcome: str = f(s.one_of("kept", "discarded"))
    metric: int = f(s.integer())
    loss_root: bytes = f(s.octets(32))
    loss_sum: int = f(s.integer())
    state_root: bytes = f(s.octets(32))
    weights: Cid = f(s.link)  # the shard
    params: bytes = f(s.octets(32))
    params_count: int = f(s.integer())
    layers: int = f(s.integer())
    sparsity_ppm: int = f(s.integer(0, 1_000_000))
    cpu_ms: int = f(s.integer())
    source_bytes: int = f(s.integer())  # of all different source blobs
    shard_bytes: int = f(s.integer())
    ops: int = f(s.integer())  # of the source, for one item
    # layer groups that hold something
    groups: tuple[int, ...] = f(s.many(s.integer(0, SEGMENTS_MAX - 1), SEGMENTS_MAX, 1))

    def check(self) -> None:
        """Sources have names that can lie in one directory; the state is a set."""
        names = [name for name, _ in self.sources]
        nested = {a for a in names if any(b.startswith(f"{a}/") for b in names)}
        if nested or any(a >= b for a, b in pairwise(names)) or not all(map(_is_file_name, names)):
            raise Refused("bad-body", f"{self.KIND}: sources are sorted by relative file names, each once")
        if any(a >= b for a, b in pairwise(self.state)):
            raise Refused("bad-body", f"{self.KIND}: the state is sorted, each member once")
        if any(a >= b for a, b in pairwise(self.groups)):
            raise Refused("bad-body", f"{self.KIND}: the groups are sorted, each once")

    @property
    def states(self) -> tuple[Cid, ...]:
        """Start states, which a conversion does not publish: they follow from the shard."""
        return ()

    @property
    def bases(self) -> tuple[Cid, ...]:
        """What it builds on."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement(Absorption):
    """An accepted absorption's source converted anew, better than by its base."""

    KIND: ClassVar[str] = "refinement"
    base: Cid = f(s.link)

    @property
    def bases(self) -> tuple[Cid, ...]:
        """What it builds on."""
        return (self.base,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge(Absorption):
    """Accepted absorptions of one lineage as one model: their weights merged in integers, converted like any other.

    ``sources`` are those of the inputs: the files of input i below ``i/`` in two digits, those of the base below
    ``base/``. ``incomes``: the weight of each input, which follows from the view.
    """

    KIND: ClassVar[str] = "merge"
    sources: tuple[tuple[str, Cid], ...] = f(s.many(s.row(s.text(200), s.link), MERGE_SOURCES_MAX, 2))
    inputs: tuple[Cid, ...] = f(s.many(s.link, MERGE_INPUTS_MAX, 2))
    incomes: tuple[int, ...] = f(s.many(s.integer(1, INCOME_MAX), MERGE_INPUTS_MAX, 2))
    merging: str = f(s.one_of(*MERGINGS))
    base: Cid | None = f(s.maybe(s.link))  # what all inputs were trained from; distances are measured from it

    def check(self) -> None:
        """As of an absorption; the inputs are a set with a weight each."""
        Absorption.check(self)
        if any(a >= b for a, b in pairwise(self.inputs)) or len(self.incomes) != len(self.inputs):
            raise Refused("bad-body", "merge: the inputs are sorted, each once, and each has one income")

    @property
    def bases(self) -> tuple[Cid, ...]:
        """What it builds on."""
        return self.inputs if self.base is None else (*self.inputs, self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retract(Body):
    """The author takes an absorption out of the state."""

    KIND: ClassVar[str] = "retract"
    target: Cid = f(s.link)
    why: str = f(s.text(280))


def _is_file_name(name: str) -> bool:
    """Whether a source's name leads nowhere but below the directory that it is put into."""
    parts = name.split("/")
    return all(
        part and part.strip(".") and part.isprintable() and "\\" not in part and ":" not in part
        for part in parts
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce(Body):
    """The author asks again for verification of a claim that got no verdict."""

    KIND: ClassVar[str] = "announce"
    target: Cid = f(s.link)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestCommit(Body):
    """Hash of evidence, before anything is opened. ``named``: what a dispute asks for, else null."""

    KIND: ClassVar[str] = "attest_commit"
    target: Cid = f(s.link)  # the experiment or its announcement
    digest: bytes = f(s.octets(32))
    named: tuple[int, int] | None = f(s.maybe(s.row(s.integer(0, 2), s.integer(0, BLOCKS_MAX))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Body):
    """The author opens what verifiers committed to: losses, state digests, inner digests."""

    KIND: ClassVar[str] = "open"
    target: Cid = f(s.link)
    commits: tuple[Cid, ...] = f(s.many(s.link, COMMITS_MAX))
    loss_secret: bytes = f(s.octets(32))
    losses: tuple[int, ...] = f(s.many(s.integer(0, LOSS_MAX), BLOCKS_MAX, 1))
    state_secret: bytes = f(s.octets(32))
    digests: tuple[bytes, ...] = f(s.many(s.octets(32), SEGMENTS_MAX + 1, 2))
    tail: bytes = f(s.octets(32))  # with ``params`` it gives the last state's digest
    inner: tuple[tuple[int, int, bytes], ...] = f(  # (segment, step, digest)
        s.many(s.row(s.integer(0, SEGMENTS_MAX), s.integer(), s.octets(32)), COMMITS_MAX * SEGMENTS_MAX)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestReveal(Body):
    """The evidence behind a commit: numbers that cannot be known without computing."""

    KIND: ClassVar[str] = "attest_reveal"
    target: Cid = f(s.link)
    commit: Cid = f(s.link)
    nonce: bytes = f(s.octets(16))
    params: bytes | None = f(s.maybe(s.octets(32)))  # digest of the published weights as fetched
    losses: tuple[tuple[int, int], ...] = f(  # (block, nano-bits)
        s.many(s.row(s.integer(0, BLOCKS_MAX), s.integer(0, LOSS_MAX)), BLOCKS_MAX)
    )
    segments: tuple[tuple[int, int, bytes, bytes, bytes], ...] = f(  # (segment, step, start, inner, end)
        s.many(
            s.row(s.integer(0, SEGMENTS_MAX), s.integer(), s.octets(32), s.octets(32), s.octets(32)),
            SEGMENTS_MAX,
        )
    )
    steps: tuple[tuple[int, int], ...] = f(  # one-step jury: (step, relative error in millionths)
        s.many(s.row(s.integer(0, TRACE_STATES_MAX), s.integer(0, STEP_PPM_MAX)), JURY_STEPS_MAX)
    )
    cpu_ms: int = f(s.integer())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace(Body):
    """One node's digests of every state of a disputed segment: its start, then after each of its steps."""

    KIND: ClassVar[str] = "trace"
    target: Cid = f(s.link)  # the experiment or its announcement
    segment: int = f(s.integer(0, SEGMENTS_MAX))
    digests: tuple[bytes, ...] = f(s.many(s.octets(32), TRACE_STATES_MAX, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStates(Body):
    """The author's states before and after each step that a jury recomputes, as blobs."""

    KIND: ClassVar[str] = "trace_states"
    target: Cid = f(s.link)
    segment: int = f(s.integer(0, SEGMENTS_MAX))
    states: tuple[tuple[int, Cid, Cid], ...] = f(  # (step, state before it, state after it)
        s.many(s.row(s.integer(1, TRACE_STATES_MAX), s.link, s.link), JURY_STEPS_MAX)
    )


KINDS: dict[str, type[Body]] = {
    kind.KIND: kind
    for kind in (
        Genesis, Join, Invite, Profile, Seal, Task, Intent, Experiment, Absorption, Refinement, Merge, Retract,
        Announce, AttestCommit, Open, AttestReveal, Trace, TraceStates,
    )
}  # fmt: skip
