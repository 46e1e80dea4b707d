"""The state of a mesh: which absorbed models it answers with, and why.

An OR-Set of records: added by passing the gate, removed for good by retraction or a ban.
Source: PROTOCOL §6; spec/51-absorption-and-state.md §§5, 6; spec/52-merge.md §5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spore_borg.limits import STATE_MEMBERS_MAX
from spore_borg.records.bodies import Absorption, Merge, Refinement
from spore_borg.records.cid import Cid
from spore_borg.views.gate import Weighed, decide

JOINED, REFUSED, STALE, REPLACED, REMOVED = "joined", "refused", "stale", "replaced", "removed"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one verified absorption stands.

    Attributes:
        word: joined, refused, stale, replaced (by its refinement, or a merge) or removed; why: one sentence.
        weighed: what its probes say; empty where nothing was opened.
        round: of the gate's decision; by: the refinement or merge that replaced it.
        inputs: of a merge; income: its weight in a merge, fixed here.
    """

    cid: Cid
    author: bytes
    modality: str
    base: Cid | None
    word: str
    why: str
    weighed: tuple[Weighed, ...]
    round: int
    by: Cid | None = None
    inputs: tuple[Cid, ...] = ()
    income: int = 1


@dataclass(slots=True)
class Bank:
    """Standings of all verified absorptions; the members are those that joined.

    Attributes:
        withdrawn: author → its joins that will not be paid, one for each member that it has retracted.
    """

    standings: dict[Cid, Standing] = field(default_factory=dict)
    retracted: set[Cid] = field(default_factory=set)
    withdrawn: dict[bytes, int] = field(default_factory=dict)

    def members(self, modality: str | None = None) -> tuple[Cid, ...]:
        """The members of a modality, or all, ascending."""
        return tuple(
            sorted(
                cid
                for cid, standing in self.standings.items()
                if standing.word == JOINED and modality in (None, standing.modality)
            )
        )

    def digest(self) -> bytes | None:
        """The digest of the members; None without any."""
        members = self.members()
        return hashlib.sha256(b"spore-borg/bank\0" + b"".join(members)).digest() if members else None

    def offer(
        self,
        cid: Cid,
        author: bytes,
        body: Absorption,
        round_: int,
        weigh: Callable[[], Sequence[Weighed]] | None,
        income: int = 1,
    ) -> Standing:
        """Take a verified absorption.

        Args:
            weigh: what its probes say; None where nobody has opened or checked them: its author's word decides.
            income: its weight in a merge.
        """
        base = body.base if isinstance(body, Refinement) else None
        weighed: Sequence[Weighed] = ()
        word, why = self._obstacle(cid, body, base)
        if not word and weigh is None:
            kept = body.outcome == "kept"
            word = JOINED if kept else REFUSED
            why = (
                "By its author's word: nobody else has verified it."
                if kept
                else "Its author does not offer it."
            )
        elif not word and weigh is not None:
            weighed = weigh()
            passed, why = decide(weighed, self._fewer(body))
            word = JOINED if passed else REFUSED
        inputs = body.inputs if isinstance(body, Merge) else ()
        return self.adopt(
            Standing(
                cid, author, body.modality, base, word, why, tuple(weighed), round_, inputs=inputs, income=income
            )
        )  # fmt: skip

    def adopt(self, standing: Standing) -> Standing:
        """Take what is decided already."""
        members = [cid for cid in self.members(standing.modality) if cid != standing.cid]
        self.standings[standing.cid] = standing
        if standing.word == JOINED and standing.inputs:
            for cid in replaced(members, self._merged(members), standing.inputs):
                self._replace(cid, standing.cid, "The merge")
        elif standing.word == JOINED and standing.base in self.standings:
            self._replace(standing.base, standing.cid, "Its refinement")
        return standing

    def _fewer(self, body: Absorption) -> int:
        """By how many members the state gets smaller if it joins."""
        if not isinstance(body, Merge):
            return 0
        members = self.members(body.modality)
        return max(0, len(replaced(members, self._merged(members), body.inputs)) - 1)

    def _merged(self, members: Iterable[Cid]) -> dict[Cid, tuple[Cid, ...]]:
        """The inputs of those that are merges."""
        return {cid: self.standings[cid].inputs for cid in members if self.standings[cid].inputs}

    def _obstacle(self, cid: Cid, body: Absorption, base: Cid | None) -> tuple[str, str]:
        """What keeps it out before its probes are looked at: (word, sentence)."""
        if cid in self.retracted:
            return REMOVED, "Its author has retracted it."
        members = self.members(body.modality)
        if isinstance(body, Merge) and absent(members, self._merged(members), body.inputs):
            return REFUSED, "An input is not in the state."
        if body.state != members:
            return STALE, (
                "The state has other members than when it was measured: its author's node measures it again."
            )
        if base is None:
            if len(members) >= STATE_MEMBERS_MAX and not isinstance(body, Merge):
                return REFUSED, f"The state has {STATE_MEMBERS_MAX} models of its modality already."
            return "", ""
        return ("", "") if base in members else (REFUSED, "Its base is not in the state.")

    def _replace(self, base: Cid, by: Cid, what: str) -> None:
        old = self.standings[base]
        why = f"{what} {str(by)[-8:]} has taken its place."
        self.standings[base] = replace(old, word=REPLACED, why=why, by=by)

    def retract(self, cid: Cid) -> None:
        """Its author takes it out; also before it was ever in."""
        old = self.standings.get(cid)
        if old is not None and old.word in (JOINED, REPLACED):
            self.withdrawn[old.author] = self.withdrawn.get(old.author, 0) + 1
        self.retracted.add(cid)
        self._remove(cid, "Its author has retracted it.")

    def repaid(self, author: bytes) -> bool:
        """Whether a join of this author only makes up for a member that it has retracted; each does so once."""
        left = self.withdrawn.get(author, 0)
        self.withdrawn[author] = max(0, left - 1)
        return left > 0

    def drop(self, banned: Iterable[bytes]) -> None:
        """Remove what dead keys have brought in."""
        dead = frozenset(banned)
        for standing in sorted(self.standings.values(), key=lambda item: item.cid):
            if standing.author in dead:
                self._remove(standing.cid, "Its author's key is dead.")

    def _remove(self, cid: Cid, why: str) -> None:
        old = self.standings.get(cid)
        if old is None or old.word == REMOVED:
            return
        self.standings[cid] = replace(old, word=REMOVED, why=why)
        if old.word == JOINED:
            self._give_back(cid)
        for merge in [one.cid for one in self.standings.values() if cid in one.inputs]:
            self._remove(merge, "One of its inputs was removed from the state.")

    def _give_back(self, cid: Cid) -> None:
        """What a removed one had taken the place of is in the state again; of what is removed itself, what that had."""
        for heir in sorted(
            (one for one in self.standings.values() if one.by == cid), key=lambda one: one.cid
        ):
            if heir.word == REPLACED:
                back = "What had taken its place has left the state, and it is a member again."
                self.standings[heir.cid] = replace(heir, word=JOINED, why=back, by=None)
            elif heir.word == REMOVED:
                self._give_back(heir.cid)


def absent(members: Collection[Cid], merged: Mapping[Cid, Sequence[Cid]], inputs: Sequence[Cid]) -> list[Cid]:
    """The inputs that are not in the state: neither members, nor in a member that the merge takes the place of.

    Args:
        members: of the state; merged: the inputs of those of them that are merges.
    """
    within = {one for cid in replaced(members, merged, inputs) for one in merged.get(cid, (cid,))}
    return [cid for cid in inputs if cid not in within]


def replaced(
    members: Collection[Cid], merged: Mapping[Cid, Sequence[Cid]], inputs: Sequence[Cid]
) -> tuple[Cid, ...]:
    """The members that a merge takes the place of: its inputs, and merges of some of them."""
    mine = frozenset(inputs)
    return tuple(sorted(cid for cid in members if mine.issuperset(merged.get(cid, (cid,)))))
