"""The fold: from the set of records to verdicts, reputation, frontiers and digests. Integers only.

One pass over the epochs in order. An epoch that more than half of the rooted trust has sealed is a
*round*; acknowledgements, deadlines and decay count rounds, so a mesh whose majority sleeps loses nothing.
Source: PROTOCOL §§4, 5, 8; spec/20-views.md.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import defaultdict
from collections.abc import Iterable

from spore_borg.limits import REANNOUNCEMENTS_MAX
from spore_borg.records import onion
from spore_borg.records.bodies import Absorption, Experiment, Invite, Join, Task
from spore_borg.records.canonical import encode
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record
from spore_borg.records.keys import usable, verify
from spore_borg.views import budget, drawing, lineage, resume, seeds, terms, verdicts
from spore_borg.views.bank import Bank
from spore_borg.views.dag import Dag, Reach
from spore_borg.views.frontier import Frontier
from spore_borg.views.members import Member, Round
from spore_borg.views.reputation import Ledger
from spore_borg.views.settle import book_verdict, settling_order
from spore_borg.views.verdicts import Claim

SETTLED_AFTER = 4  # rounds after which a round's state stays as it is
ACK_LATE_MAX = 2  # rounds between a claim's own epoch and its acknowledgement
EPOCHS_YOUNG = 8  # epochs that a fold takes again when records come
LIVE_ROUNDS = 4  # a node is live if it sealed one of the last so many rounds


def invitation_message(mesh: Cid, joiner: bytes) -> bytes:
    """What the holder of an invitation's one-time key signs."""
    return b"spore-borg/invite\0" + mesh + joiner


_FIXED = ("dag", "genesis", "_kept")  # not part of the state that a fold changes


class View:
    """Everything that follows from a set of records.

    Attributes:
        rounds: newest last.
        claims: experiment cid → its latest claim; frontiers: (task, family) → accepted frontier.
        solo: the same with results that nobody else could verify yet.
        members, ledger, tasks: by key / of all keys / by cid.
    """

    def __init__(self, records: Iterable[Record], before: View | None = None) -> None:
        """Fold.

        Args:
            records: the set, in any order; duplicates do no harm.
            before: a view of a part of the set; ``records`` are then only the others, and the result is the same.
        """
        resumed = None
        self.dag: Dag
        if before is not None:
            self.dag, young = resume.extended(before.dag, records, before._kept[0])
            resumed = before._kept if young else None
        else:
            self.dag = Dag(records)
        self.genesis: Record | None = min(
            (r for r in self.dag.records if r.kind == "genesis"), key=lambda r: r.cid, default=None
        )
        self.rounds: list[Round] = []
        self.ack: dict[Cid, int] = {}
        self.members: dict[bytes, Member] = {}
        self.tasks: dict[Cid, Task] = {}
        self.invites: dict[Cid, Record] = {}
        self.invite_uses: dict[Cid, int] = defaultdict(int)
        self.claims: dict[Cid, Claim] = {}
        self.by_instance: dict[Cid, Claim] = {}
        self.pending: list[Claim] = []
        self.notes: dict[Cid, str] = {}  # experiment → why it is no claim
        self.electorates: list[seeds.Electorate] = []  # after the newest rounds
        self.promises: dict[Cid, seeds.Promise] = {}  # acknowledged intents
        self.open_intents: dict[bytes, list[Cid]] = {}  # by author: those that wait for their experiment
        self.used: dict[Cid, Cid] = {}  # intent → the experiment that it led to
        self.witnesses: dict[Cid, tuple[Cid, ...]] = {}  # experiment → the seals that its seed is mixed of
        self.crashed: set[Cid] = set()
        self.frontiers: dict[tuple[Cid, str], Frontier] = defaultdict(Frontier)
        self.solo: dict[tuple[Cid, str], Frontier] = defaultdict(Frontier)
        self.pooled: set[Cid] = set()  # experiments that the solo frontier has
        self.frontier_why: dict[Cid, str] = {}
        self.ledger = Ledger()
        self.runs: dict[
            tuple[Cid, bytes], tuple[int, bytes]
        ] = {}  # (task, weights) → first claim's round, author
        self.bank, self.bank_solo = Bank(), Bank()
        self.suites: dict[bytes, Cid] = {}  # evaluator → the mesh's absorption task
        self.absorbed: dict[terms.Work, Cid] = {}  # the newest claim of a work
        self.measured: dict[terms.Work, int] = defaultdict(int)  # how often it was claimed
        self._reach: dict[bytes, Reach] = {}
        self._unacked: set[int] = set()
        self._digest_last = b""
        self._round_epochs: list[int] = []
        self._kept: tuple[int, resume.State] = (-1, {})  # the state after an epoch, to go on from
        if self.genesis is not None:
            self._run(resumed)

    # ---- the loop over epochs

    def _run(self, resumed: tuple[int, resume.State] | None) -> None:
        epochs = sorted(self.dag.seals)
        if resumed is not None and resumed[1]:
            self._kept = resumed
            vars(self).update(resume.copied(resumed[1]))
            for reach in self._reach.values():
                reach.on(self.dag)
            epochs = epochs[bisect.bisect_right(epochs, resumed[0]) :]
        else:
            self._begin_mesh()
        for number, epoch in enumerate(epochs):
            if number and number == len(epochs) - EPOCHS_YOUNG:
                state = {name: value for name, value in vars(self).items() if name not in _FIXED}
                self._kept = epochs[number - 1], resume.copied(state)
            trust = self.ledger.trust
            total = sum(trust.values())
            sealed = {who: at for who, at in self.dag.seals[epoch].items() if trust.get(who)}
            weight = sum(trust[who] for who in sealed)
            if 2 * weight > total:
                self._digest_last = self._round(epoch, sealed, weight, total, self._digest_last)

    def _begin_mesh(self) -> None:
        assert self.genesis is not None, "checked by the caller"
        self.ledger.roots = self.genesis.body.roots
        for root in self.ledger.roots:
            self.ledger.account(root)
        self.ledger.derive()
        self._acknowledge(self.genesis, 0)
        self._digest_last = hashlib.sha256(b"spore-borg/view\0" + self.genesis.cid).digest()

    def _round(self, epoch: int, sealed: dict[bytes, int], weight: int, total: int, digest: bytes) -> bytes:
        round_ = len(self.rounds)
        self.ledger.round = round_
        self._round_epochs.append(epoch)
        trusted = dict(self.ledger.trust)
        # by depth, so that what a record rests on is taken before it when one round acknowledges both
        fresh = sorted(
            self._newly_acknowledged(sealed, trusted, total),
            key=lambda record: (self.dag.depth[self.dag.index[record.cid]], record.cid),
        )
        for who in self.dag.seals[epoch]:
            self._member(who).round_seen = round_
        for record in fresh:
            self.ack[record.cid] = round_
        self._ban_forks(fresh)
        for record in fresh:
            if not self.ledger.account(record.author).banned:
                self._acknowledge(record, round_)
        live = {who for who, m in self.members.items() if m.round_seen > round_ - LIVE_ROUNDS}  # as is_live
        for claim in sorted(self.pending, key=lambda claim: claim.cid):
            self._step(claim, round_, epoch, trusted, live)
        settled = [claim for claim in self.pending if claim.verdict is not None]
        self.pending = [claim for claim in self.pending if claim.verdict is None]
        for claim in sorted(settled, key=settling_order):
            book_verdict(self, claim, round_)
        banned = [key for key, account in self.ledger.accounts.items() if account.banned]
        for bank in (self.bank, self.bank_solo):
            bank.drop(banned)
        self.ledger.close_round(any(c.verdict in (verdicts.ACCEPTED, verdicts.REFUTED) for c in settled))
        seeds.close_round(self, epoch, live)
        digest = self._digest(digest, round_, epoch, fresh, settled)
        self.rounds.append(Round(round_, epoch, len(sealed), weight, total, len(fresh), digest))
        return digest

    def _newly_acknowledged(
        self, sealed: dict[bytes, int], trust: dict[bytes, int], total: int
    ) -> list[Record]:
        """Records that more than half of the trust has in the past of its seals of this epoch."""
        for who, seal in sealed.items():
            reach = self._reach.setdefault(who, Reach(self.dag))
            self._unacked.update(
                position for position in reach.extend(seal) if self.dag.records[position].cid not in self.ack
            )
        seen = [(trust[who], self._reach[who].seen) for who in sealed]
        fresh = [
            position
            for position in self._unacked
            if 2 * sum(amount for amount, positions in seen if position in positions) > total
        ]
        self._unacked.difference_update(fresh)
        return [self.dag.records[position] for position in fresh]

    def _ban_forks(self, fresh: list[Record]) -> None:
        for record in fresh:
            twins = self.dag.forks.get((record.author, record.seq), ())
            seen = [cid for cid in (self.dag.records[at].cid for at in twins) if cid in self.ack]
            if len(seen) > 1:
                self.ledger.ban(
                    record.author, "equivocation", max(seen),
                    f"Two different records with the same number {record.seq} were signed: the key is dead.",
                )  # fmt: skip

    # ---- what an acknowledged record changes

    def _acknowledge(self, record: Record, round_: int) -> None:
        self.ack[record.cid] = round_
        match record.kind:
            case "join":
                self._join(record, round_)
            case "invite":
                self.invites[record.cid] = record
            case "profile":
                self._member(record.author).profile = record
            case "task":
                self.tasks[record.cid] = record.body
                terms.take_suite(self, record)
            case "intent":
                seeds.take_intent(self, record, round_, self._rounds_before(record.epoch))
            case "experiment":
                self._experiment(record, round_)
            case "absorption" | "refinement" | "merge":
                self._absorption(record, round_)
            case "retract":
                self._retract(record)
            case "announce":
                self._announce(record, round_)
            case "attest_commit" | "attest_reveal" | "open" | "trace" | "trace_states":
                self._evidence(record, round_)
            case _:
                pass  # genesis and seal act through the graph

    def _member(self, key: bytes) -> Member:
        return self.members.setdefault(key, Member(key))

    def _join(self, record: Record, round_: int) -> None:
        member, body = self._member(record.author), record.body
        first = not member.joins
        member.joins.append(record)
        member.join = max(member.joins, key=lambda join: (join.seq, join.cid))
        if first and body.invite is not None:
            self._endow(record, body, round_)

    def _endow(self, record: Record, body: Join, round_: int) -> None:
        assert body.invite is not None and self.genesis is not None, "checked by the caller"
        cid, proof = body.invite
        invite = self.invites.get(cid)
        if invite is None or not self.ledger.trust.get(invite.author) or record.epoch > invite.body.until:
            return
        terms: Invite = invite.body
        message = invitation_message(self.genesis.cid, record.author)
        if self.invite_uses[cid] >= terms.uses:
            return
        if not usable(terms.key) or not verify(terms.key, message, proof):
            return  # as for authors: keys on which libraries differ are no keys
        self.invite_uses[cid] += 1
        amount = terms.endowment
        if invite.author not in self.ledger.roots:
            own = self.ledger.account(invite.author).score
            amount = min(amount, own)
            self.ledger.lose(
                invite.author, "invites", (own - amount, max(own, 1)), record.cid, "Given to an invited node."
            )
        self.ledger.earn(
            record.author, "invited", amount, record.cid, "A trusted node's invitation brought it in."
        )

    def _experiment(self, record: Record, round_: int) -> None:
        body: Experiment = record.body
        seeds.take_experiment(self, record)
        if body.outcome == "crashed":
            self.crashed.add(record.cid)
            self.notes[record.cid] = "The run crashed: there is nothing to verify."
            return
        fault = terms.experiment_fault(self, record, body, round_)
        if fault:
            self.notes[record.cid] = fault
            return
        self.runs.setdefault((body.task, body.params or b""), (round_, record.author))
        claim = Claim(record.cid, record, self.tasks[body.task], round_)
        self._begin(claim, record, round_)

    def _absorption(self, record: Record, round_: int) -> None:
        body: Absorption = record.body
        fault = lineage.absorption_fault(self, record, body)
        if fault:
            self.notes[record.cid] = fault
            return
        lineage.take_work(self, record)
        self._begin(Claim(record.cid, record, self.tasks[body.task], round_), record, round_)

    def _retract(self, record: Record) -> None:
        target = self.claims.get(record.body.target)
        if target is not None and target.author == record.author and isinstance(target.body, Absorption):
            for bank in (self.bank, self.bank_solo):
                bank.retract(record.body.target)
        else:
            self.notes[record.cid] = "It names no absorption of its author, so it changes nothing."

    def _announce(self, record: Record, round_: int) -> None:
        claim = self.claims.get(record.body.target)
        if (
            claim is None
            or claim.author != record.author
            or claim.verdict not in (verdicts.VOID, verdicts.SOLO)
        ):
            return
        if claim.announced >= REANNOUNCEMENTS_MAX:
            return
        fresh = Claim(
            record.cid, claim.target, claim.task, round_, announced=claim.announced + 1, evaded=claim.evaded
        )
        self._begin(fresh, record, round_)

    def _begin(self, claim: Claim, record: Record, round_: int) -> None:
        self.claims[claim.target.cid] = claim
        self.by_instance[record.cid] = claim
        if round_ - self._rounds_before(record.epoch) > ACK_LATE_MAX:
            claim.settle(
                verdicts.VOID,
                round_,
                "It was shown too late after its own epoch; its author must announce it again.",
            )
            return
        claim.enter("waiting", round_, "Acknowledged; next round's seals decide who verifies it.")
        self.pending.append(claim)

    def body_of(self, experiment: Cid) -> Experiment:
        """The body of an experiment in the set."""
        body: Experiment = self.dag.records[self.dag.index[experiment]].body
        return body

    def _rounds_before(self, epoch: int) -> int:
        """Number of rounds whose epoch is below this one."""
        return bisect.bisect_left(self._round_epochs, epoch)

    def _evidence(self, record: Record, round_: int) -> None:
        claim = self.by_instance.get(record.body.target)
        if claim is None or claim.verdict is not None:
            return
        if record.kind == "attest_commit":
            verdicts.take_commit(claim, record, round_)
        elif record.kind == "attest_reveal":
            verdicts.take_reveal(claim, record, round_)
        elif record.kind == "trace":
            verdicts.take_trace(claim, record, round_)
        elif record.kind == "trace_states":
            verdicts.take_states(claim, record)
        elif record.author == claim.author:
            claim.openings.append((round_, record))

    # ---- verification

    def value(self, author: bytes, epoch: int) -> bytes | None:
        """An author's onion value of an epoch, if it was revealed and fits the anchor that stood before."""
        at = self.dag.seals.get(epoch, {}).get(author)
        member = self.members.get(author)
        if at is None or member is None:
            return None
        seal = self.dag.records[at]
        joins = [join for join in member.joins if join.seq < seal.seq and join.epoch <= epoch]
        if not joins:
            return None
        value: bytes = seal.body.value
        return value if self.fits(max(joins, key=lambda item: item.seq), epoch, value) else None

    def fits(self, join: Record, epoch: int, value: bytes, *, keep: bool = True) -> bool:
        """Whether a value is that of an epoch in the onion of an acknowledged join; ``keep``: remember it if so."""
        index, kept = epoch - join.epoch, self.members[join.author].onion_known
        known = kept.get(join.cid)
        if not onion.check(join.body.anchor, value, index, known):
            return False
        if keep and (known is None or known[0] < index):
            kept[join.cid] = (index, value)
        return True

    def _step(
        self, claim: Claim, round_: int, epoch: int, trusted: dict[bytes, int], live: set[bytes]
    ) -> None:
        if claim.stage == "waiting" and round_ > claim.round_ack:
            drawing.draw_claim(self, claim, round_, epoch, trusted, live)
        traced = claim.stage == "dispute" and claim.phase == "trace"
        verdicts.advance(
            claim, round_, budget.judges(self, claim, trusted), live,
            self._chance(claim, epoch, trusted) if traced else None,
        )  # fmt: skip

    def _chance(self, claim: Claim, epoch: int, trusted: dict[bytes, int]) -> bytes | None:
        """The onion values that trusted nodes other than the author reveal in an epoch, as one; None without any."""
        judges = sorted(who for who in self.dag.seals[epoch] if trusted.get(who) and who != claim.author)
        values = [value for who in judges if (value := self.value(who, epoch)) is not None]
        return hashlib.sha256(b"spore-borg/chance\0" + b"".join(values)).digest() if values else None

    # ---- digests

    def _digest(
        self, before: bytes, round_: int, epoch: int, fresh: list[Record], settled: list[Claim]
    ) -> bytes:
        said = [
            before,
            round_,
            epoch,
            hashlib.sha256(b"".join(sorted(record.cid for record in fresh))).digest(),
            [[c.target.cid, c.verdict] for c in sorted(settled, key=lambda c: c.cid)],
            hashlib.sha256(
                b"".join(
                    who + amount.to_bytes(16, "big") for who, amount in sorted(self.ledger.trust.items())
                )
            ).digest(),
            sorted(
                [task, family, f.steps[-1].cid] for (task, family), f in self.frontiers.items() if f.steps
            ),
        ]
        members = self.bank.digest()
        if members is not None:
            said.append(members)
        return hashlib.sha256(b"spore-borg/view\0" + encode(said)).digest()

    @property
    def round(self) -> int:
        """Number of the newest round; -1 before the first."""
        return len(self.rounds) - 1

    @property
    def round_settled(self) -> int:
        """Number of the newest round whose state stays; -1 if none is."""
        return max(-1, self.round - SETTLED_AFTER)

    def is_live(self, who: bytes) -> bool:
        """Whether a node sealed one of the last ``LIVE_ROUNDS`` rounds."""
        member = self.members.get(who)
        return member is not None and member.round_seen > self.round - LIVE_ROUNDS

    def digest_of(self, round_: int) -> bytes | None:
        """The view digest of a round."""
        return self.rounds[round_].digest if 0 <= round_ < len(self.rounds) else None


def reduce(records: Iterable[Record]) -> View:
    """Fold a set of records (any order, duplicates allowed) into everything that follows from it."""
    return View(records)
