"""One claim on its way to a verdict: a state machine over rounds, driven by acknowledged evidence only.

waiting → drawn → committed → opened → (dispute →) settled. Each stage ends as soon as its evidence is
complete, at the latest after its number of rounds. A round is an epoch that more than half of the rooted
trust has sealed, so a mesh that sleeps stops these clocks too.
Source: PROTOCOL §4; spec/40-verification.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spore_borg.records.bodies import Absorption, Experiment, Open, Task
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.views import evidence as ev
from spore_borg.views import onestep
from spore_borg.views.draw import Probe

ROUNDS_TO_DRAW = 12  # so long a claim waits for somebody who can verify it
ROUNDS_TO_COMMIT = 6
ROUNDS_TO_OPEN = 4
ROUNDS_TO_REVEAL = 4
ROUNDS_TO_JUDGE = 8
PATIENCE = 8  # times as many rounds for what is computed on absorptions: no budget bounds the size of a model
QUORUM = 2
ROW_CLASSES = 64  # of a converted layer group: rows i ≡ n - 1 (mod 64) belong to inner step n
JURY_MIN = 2  # with fewer jurors a contradiction is a split, and a split is void

ACCEPTED, REFUTED, VOID, SOLO = "accepted", "refuted", "void", "solo"


@dataclass(slots=True)
class Evidence:
    """What one node has put forward on one claim. Rounds are those of acknowledgement."""

    author: bytes
    commit: Record
    commit_round: int
    reveal: Record | None = None
    reveal_round: int | None = None
    finding: ev.Finding | None = None


@dataclass(slots=True)
class Claim:
    """A claim: an experiment or absorption, or its latest announcement.

    Attributes:
        cid: the record that asks for verification (the target or its announcement).
        target: the record of the experiment or absorption.
        round_ack: round in which ``cid`` was acknowledged.
        round_stage: round in which the present stage began.
        probes: what each drawn node is asked; shadows: the same for nodes that were not drawn.
        evidence, jury: by node; jury only where a dispute names something.
        candidates: trusted nodes that could be drawn; twins: those of them with the author's fingerprint.
        cleared: what earlier disputes were about, and who had contradicted it.
        phase: of a dispute: jury (nodes recompute), or before a one-step jury trace (author and accusers tell every
            state of the segment) and states (the author publishes those around ``steps``).
        traces: by node, with the round; steps: what a one-step jury recomputes, 0 is the start state; states:
            the author's answer.
        new_author: the author had no trust, so the whole run is replayed.
        alone_class: nobody else of the author's fingerprint could replay.
        evaded: the author once knew what was drawn and did not open it, so the whole run is replayed from then on.
    """

    cid: Cid
    target: Record
    task: Task
    round_ack: int
    announced: int = 0
    stage: str = "waiting"
    round_stage: int = 0
    round_drawn: int | None = None
    probes: dict[bytes, Probe] = field(default_factory=dict)
    shadows: dict[bytes, Probe] = field(default_factory=dict)
    candidates: tuple[bytes, ...] = ()
    twins: tuple[bytes, ...] = ()
    quorum: int = QUORUM
    new_author: bool = False
    alone_class: bool = False
    evaded: bool = False
    evidence: dict[bytes, Evidence] = field(default_factory=dict)
    openings: list[tuple[int, Record]] = field(default_factory=list)
    opening: Record | None = None
    named: ev.Named | None = None
    jury: dict[bytes, Evidence] = field(default_factory=dict)
    cleared: dict[ev.Named, set[bytes]] = field(default_factory=dict)
    phase: str = "jury"
    traces: dict[bytes, tuple[int, Record]] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    states: Record | None = None
    ruling: dict[bytes, str] = field(default_factory=dict)
    verdict: str | None = None
    reason: str = "received, not yet acknowledged"
    round_settled: int | None = None

    @property
    def body(self) -> Experiment | Absorption:
        """What is claimed."""
        body: Experiment | Absorption = self.target.body
        return body

    @property
    def recipe(self) -> dict[str, int | bool | str]:
        """The recipe of an experiment; an absorption has none."""
        return self.body.recipe if isinstance(self.body, Experiment) else {}

    @property
    def inner_steps(self) -> int:
        """Steps that inner picks are drawn from: those of a training, or 64 of each layer group."""
        return self.body.steps if isinstance(self.body, Experiment) else self.task.segments * ROW_CLASSES

    @property
    def parts(self) -> tuple[int, ...]:
        """The segments that can be replayed: all, but of a conversion only layer groups that hold something."""
        return self.body.groups if isinstance(self.body, Absorption) else tuple(range(self.task.segments))

    @property
    def author(self) -> bytes:
        """Whose claim it is."""
        return self.target.author

    def enter(self, stage: str, round_: int, reason: str) -> None:
        """Begin a stage."""
        self.stage, self.round_stage, self.reason = stage, round_, reason

    def settle(self, verdict: str, round_: int, reason: str) -> None:
        """End with a verdict."""
        self.verdict, self.round_settled = verdict, round_
        self.enter("settled", round_, reason)

    def deadline(self) -> int | None:
        """Last round of the present stage."""
        rounds = {
            "waiting": ROUNDS_TO_DRAW, "drawn": ROUNDS_TO_COMMIT, "committed": ROUNDS_TO_OPEN,
            "opened": ROUNDS_TO_REVEAL, "dispute": ROUNDS_TO_JUDGE,
        }.get(self.stage)  # fmt: skip
        if rounds is None:
            return None
        computing = isinstance(self.body, Absorption) and self.stage in ("drawn", "committed", "dispute")
        return self.round_stage + rounds * (PATIENCE if computing else 1)

    def listed(self) -> list[Evidence]:
        """Evidence that the author's opening answers, by drawn nodes."""
        if self.opening is None:
            return []
        named = set(self.opening.body.commits)
        return [e for who, e in sorted(self.evidence.items()) if who in self.probes and e.commit.cid in named]

    def waiting_for(self, trusted: set[bytes]) -> tuple[bytes, ...]:
        """The nodes whose turn it is."""
        if self.stage == "drawn":
            return tuple(sorted(set(self.probes) - set(self.evidence)))
        if self.stage == "committed":
            return (self.author,)
        if self.stage == "opened":
            return tuple(e.author for e in self.listed() if e.reveal is None)
        if self.stage == "dispute" and self.phase == "trace":
            return tuple(sorted(who for who in self.tracers() if who not in self.traces))
        if self.stage == "dispute" and self.phase == "states":
            return (self.author,)
        if self.stage == "dispute":
            return tuple(sorted(who for who in trusted if who != self.author and not self.has_named(who)))
        return tuple(sorted(set(self.candidates))) if self.stage == "waiting" else ()

    def accusers(self) -> set[bytes]:
        """The drawn nodes whose evidence contradicts what the dispute names."""
        findings = ((e.author, e.finding) for e in self.listed())
        return {who for who, finding in findings if finding is not None and finding.named == self.named}

    def tracers(self) -> set[bytes]:
        """Who is asked for every state of the disputed segment."""
        return {self.author} | self.accusers()

    def disputed_steps(self) -> int:
        """Number of steps of the disputed segment."""
        assert self.named is not None, "a dispute names something"
        return onestep.length(self.named[1], self.task.segments, self.inner_steps)

    def has_named(self, who: bytes) -> bool:
        """Whether this node's evidence covers what the dispute names."""
        return bool(self.named_words().get(who))

    def named_words(self) -> dict[bytes, str]:
        """What each node's evidence says about the named thing."""
        words: dict[bytes, str] = {}
        if self.named is None or self.opening is None:
            return words
        for pile in (self.evidence, self.jury):
            for who, item in pile.items():
                if item.reveal is not None:
                    word = onestep.word(self.steps, item.reveal.body.steps) or ev.named_word(
                        self.body,
                        self.task,
                        self.opening.body,
                        self.named,
                        item.reveal.body,
                        who in self.twins,
                    )
                    if word:
                        words[who] = word
        return ev.heard(words, self.twins)


def take_commit(claim: Claim, record: Record, round_: int) -> None:
    """An acknowledged commit; the first of each node counts."""
    pile = claim.evidence if record.body.named is None else claim.jury
    if record.body.named is not None and record.body.named != claim.named:
        return
    if record.author != claim.author and record.author not in pile and claim.verdict is None:
        pile[record.author] = Evidence(record.author, record, round_)


def take_reveal(claim: Claim, record: Record, round_: int) -> None:
    """An acknowledged reveal; it must fit a commit that was acknowledged before."""
    for pile in (claim.evidence, claim.jury):
        item = pile.get(record.author)
        if item is None or item.reveal is not None or item.commit.cid != record.body.commit:
            continue
        if item.commit_round < round_ and item.commit.body.digest == ev.digest(record.author, record.body):
            item.reveal, item.reveal_round = record, round_


def take_trace(claim: Claim, record: Record, round_: int) -> None:
    """An acknowledged trace of the disputed segment; the first of each node that is asked counts."""
    asked = claim.stage == "dispute" and claim.phase == "trace" and record.author in claim.tracers()
    if asked and claim.named == (ev.REPLAY, record.body.segment):
        claim.traces.setdefault(record.author, (round_, record))


def take_states(claim: Claim, record: Record) -> None:
    """The author's states around the steps that the jury recomputes; the first complete answer counts."""
    asked = claim.stage == "dispute" and claim.phase == "states" and record.author == claim.author
    complete = [step for step, _, _ in record.body.states] == [step for step in claim.steps if step]
    if asked and complete and claim.named == (ev.REPLAY, record.body.segment) and claim.states is None:
        claim.states = record


def advance(
    claim: Claim, round_: int, trusted: dict[bytes, int], live: set[bytes], chance: bytes | None = None
) -> None:
    """Move a drawn claim as far as the evidence of this round allows.

    Args:
        chance: this round's onion values of the nodes that may judge, hashed; None if there are none.
        trusted: trust of every node at the beginning of the round.
        live: nodes that sealed lately.
    """
    if claim.stage == "drawn":
        _after_commit(claim, round_)
    if claim.stage == "committed":
        _after_open(claim, round_)
    if claim.stage == "opened":
        _after_reveal(claim, round_)
    if claim.stage == "dispute":
        if claim.phase == "trace":
            _after_traces(claim, round_, trusted, chance)
        if claim.phase == "states":
            _after_states(claim, round_)
        if claim.phase == "jury":
            _after_jury(claim, round_, trusted, live)


def _late(claim: Claim, round_: int) -> bool:
    deadline = claim.deadline()
    return deadline is not None and round_ >= deadline


def _after_commit(claim: Claim, round_: int) -> None:
    done = set(claim.probes) & set(claim.evidence)
    if len(done) == len(claim.probes) or (_late(claim, round_) and done):
        claim.enter(
            "committed", round_, "The drawn nodes have committed to evidence; the author must open the claim."
        )
    elif _late(claim, round_):
        claim.settle(VOID, round_, "None of the drawn nodes delivered evidence in time.")


def _after_open(claim: Claim, round_: int) -> None:
    for at, record in sorted(claim.openings, key=lambda item: (item[0], item[1].cid)):
        if _leaves_out(claim, at, record.body):
            continue  # no opening at all
        fault = ev.opening_fault(claim.body, claim.task, record.body)
        if fault:
            claim.settle(REFUTED, round_, f"The author's own opening refutes the claim: {fault}.")
            return
        claim.opening = record
        if claim.listed():
            claim.enter(
                "opened", round_, "The author has opened the claim; the drawn nodes reveal their evidence."
            )
            return
        claim.opening = None
    if _late(claim, round_):
        claim.evaded = True
        claim.settle(VOID, round_, "The author did not open the claim in time.")


def _leaves_out(claim: Claim, at: int, opening: Open) -> bool:
    """Whether an opening came before the commits were complete, passes one over, or hides a drawn step."""
    if at <= claim.round_stage:
        return True
    answered, inner = set(opening.commits), {(segment, step) for segment, step, _ in opening.inner}
    for who, item in claim.evidence.items():
        if who in claim.probes and item.commit.cid in answered:
            if not inner.issuperset(claim.probes[who].segments):
                return True
        elif who in claim.probes and item.commit_round <= claim.round_stage:
            return True
    return False


def _after_reveal(claim: Claim, round_: int) -> None:
    assert claim.opening is not None, "a claim is opened by an opening"
    listed = claim.listed()
    if any(item.reveal is None for item in listed) and not _late(claim, round_):
        return
    for who, item in claim.evidence.items():
        probe = claim.probes.get(who) or claim.shadows.get(who)
        if item.reveal is not None and probe is not None:
            opened, twin = claim.opening.body, who in claim.twins
            item.finding = ev.judge(claim.body, claim.task, opened, probe, item.reveal.body, twin)
    findings = [item.finding for item in listed if item.finding is not None and item.finding.word != "void"]
    if any(finding.named is not None for finding in findings):
        _next_dispute(claim, round_)
    elif len(findings) >= claim.quorum:
        claim.settle(ACCEPTED, round_, f"{len(findings)} drawn node(s) recomputed parts of it: all agree.")
    else:
        claim.settle(
            VOID,
            round_,
            f"Only {len(findings)} of the {claim.quorum} pieces of evidence needed came in time.",
        )


def _next_dispute(claim: Claim, round_: int) -> bool:
    """Go on to the first contradicted thing of which the author is not cleared yet; False if there is none."""
    named = {item.finding.named for item in claim.listed() if item.finding is not None}
    open_ = sorted(name for name in named if name is not None and name not in claim.cleared)
    if not open_:
        return False
    claim.named, claim.phase = open_[0], "jury"
    claim.jury, claim.traces, claim.steps, claim.states = {}, {}, (), None
    claim.enter("dispute", round_, f"A drawn node contradicts {describe(open_[0])}: a jury recomputes it.")
    return True


def _after_jury(claim: Claim, round_: int, trusted: dict[bytes, int], live: set[bytes]) -> None:
    assert claim.named is not None, "a dispute names something"
    words = {who: word for who, word in claim.named_words().items() if trusted.get(who)}
    expected = {who for who in trusted if who in live and who != claim.author}
    if claim.named[0] == ev.REPLAY and not claim.steps:
        expected &= set(claim.twins)
    if not expected <= set(words) and not _late(claim, round_):
        return
    claim.ruling = words
    weight = {
        side: sum(trusted[who] for who, word in words.items() if word == side) for side in ("clear", "fraud")
    }
    jurors = sum(word in ("clear", "fraud") for word in words.values())
    what = describe(claim.named)
    if jurors < JURY_MIN or weight["clear"] == weight["fraud"]:
        if _ask_traces(claim, round_, {who for who in trusted if who in live} - set(words)):
            return
        claim.settle(VOID, round_, f"A split over {what}: too few nodes could recompute it to decide.")
    elif weight["fraud"] > weight["clear"]:
        what = f"steps {_list(claim.steps)} of {what}" if claim.steps else what
        count = sum(word == "fraud" for word in words.values())
        claim.settle(
            REFUTED, round_, f"{count} node(s) recomputed {what} and found another result than claimed."
        )
    else:
        claim.cleared[claim.named] = {who for who, word in words.items() if word == "fraud"}
        if _next_dispute(claim, round_):
            return  # one false accusation must not cover for another that is true
        claim.ruling |= {who: "fraud" for slanderers in claim.cleared.values() for who in slanderers}
        what = f"steps {_list(claim.steps)} of {what}" if claim.steps else what
        claim.settle(ACCEPTED, round_, f"A jury recomputed {what} and cleared the author.")


def _list(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps))


def _ask_traces(claim: Claim, round_: int, others: set[bytes]) -> bool:
    """Go over to a one-step jury, if the dispute is about training and there are others who could judge it."""
    assert claim.named is not None, "a dispute names something"
    tier, segment = claim.named
    if tier != ev.REPLAY or claim.steps or not others - {claim.author}:
        return False
    if isinstance(
        claim.body, Absorption
    ):  # a conversion has no steps that other hardware could judge one by one
        return False
    if not onestep.traceable(segment, claim.task.segments, claim.body.steps):
        return False
    claim.phase = "trace"
    claim.enter(
        "dispute",
        round_,
        f"Too few nodes of the author's kind can judge segment {segment}: author and accusers tell its every state.",
    )
    return True


def _after_traces(claim: Claim, round_: int, trusted: dict[bytes, int], chance: bytes | None) -> None:
    assert claim.named is not None and claim.opening is not None, "a dispute names something opened"
    own = claim.traces.get(claim.author)
    if own is None:
        if _late(claim, round_):
            _silent(claim, round_)
        return
    fault = onestep.trace_fault(
        claim.opening.body, claim.named[1], claim.disputed_steps(), own[1].body.digests
    )
    if fault:
        claim.settle(REFUTED, round_, f"The author's own trace refutes the claim: {fault}.")
        return
    accusers = claim.accusers() & trusted.keys()
    if own[0] >= round_ or (not accusers <= claim.traces.keys() and not _late(claim, round_)):
        return  # the steps are drawn by values that are revealed after the traces
    if chance is None:
        if _late(claim, round_):
            claim.settle(VOID, round_, "Nobody was awake to judge the traced segment.")
        return
    told = [claim.traces[who][1].body.digests for who in sorted(accusers & claim.traces.keys())]
    claim.steps = onestep.pick(own[1].body.digests, told, chance, claim.cid)
    claim.phase = "states" if any(claim.steps) else "jury"
    what = f"steps {_list(claim.steps)} of {describe(claim.named)}"
    claim.enter("dispute", round_, f"The author publishes its states around {what} for a jury.")


def _after_states(claim: Claim, round_: int) -> None:
    assert claim.named is not None, "a dispute names something"
    if claim.states is not None:
        claim.phase = "jury"
        what = f"steps {_list(claim.steps)} of {describe(claim.named)}"
        claim.enter("dispute", round_, f"All trusted nodes, on any hardware, recompute {what}.")
    elif _late(claim, round_):
        _silent(claim, round_)


def _silent(claim: Claim, round_: int) -> None:
    """The author owes an answer and gives none. Several accusers would have been a jury before it came to this."""
    claim.evaded = True
    claim.settle(VOID, round_, "The author did not show the disputed training in time.")


def describe(named: ev.Named) -> str:
    """Words for what a dispute is about."""
    tier, number = named
    return {
        ev.WEIGHTS: "the published weights",
        ev.OUTCOME: f"block {number}",
        ev.REPLAY: f"segment {number}",
    }[tier]
