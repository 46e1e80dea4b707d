"""Rooted audited work: integers in 2^-20 trust, no fixpoint, linear above an entry cost.

Credit comes only through verdicts of nodes that were trusted before, so a closed ring earns nothing.
Source: PROTOCOL §5; spec/50-reputation.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spore_borg.records.bodies import ONE

DECAY = 1_036_535  # 2^20 * 2^(-1/60): scores halve every 60 rounds in which evidence settles a claim
DECAY_FRAUD = 1_047_365  # 2^20 * 2^(-1/600)
ENTRY = ONE  # below this score a node has no trust
FRAUD_WEIGHT = 5
ROOT_SHARE = (1, 3)  # roots hold at least this part of all trust
ROOT_ENDOWMENT = 5 * ONE  # … and at least this, halving every 60 rounds
ROOT_FLOOR = (
    ONE >> 10
)  # … down to this: a mesh that idles for long still has somebody whose seals make rounds
INFLUENCE_CAP = (1, 4)  # no node has more than this part of the influence
HALF_LIFE = 60
DECAY_WORDS = "Trust halves every 60 rounds that settle claims."

CREDIT_STEP = 2 * ONE  # an accepted frontier step
CREDIT_NEGATIVE = ONE // 2  # an audited result that is no step
SHARE_OUTCOME_PROBE = ONE // 32  # an outcome probe is about 3 % of a run
SHARE_SHADOWS = ONE // 10  # what all nodes that were not drawn earn together on one claim


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger; amounts in 2^-20 trust."""

    node: bytes
    round: int
    rule: str
    amount: int
    total: int
    cause: bytes | None
    sentence: str


@dataclass(slots=True)
class Account:
    """What one key has earned and lost."""

    score: int = 0
    frauds: int = 0
    banned: bool = False
    banned_cause: bytes | None = None
    booked: int = 0  # score at the last ledger entry: the difference since then is decay


@dataclass(slots=True)
class Ledger:
    """All accounts, the entries, and the trust that follows from them."""

    roots: tuple[bytes, ...] = ()
    accounts: dict[bytes, Account] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    trust: dict[bytes, int] = field(default_factory=dict)
    round: int = 0

    def account(self, node: bytes) -> Account:
        """The node's account; made at first use."""
        return self.accounts.setdefault(node, Account())

    def _book(self, node: bytes, rule: str, score: int, cause: bytes | None, sentence: str) -> None:
        account = self.account(node)
        if account.score != account.booked:
            drift = account.score - account.booked
            self.entries.append(Entry(node, self.round, "decay", drift, account.score, None, DECAY_WORDS))
        amount, account.score = score - account.score, score
        account.booked = score
        self.entries.append(Entry(node, self.round, rule, amount, score, cause, sentence))

    def earn(self, node: bytes, rule: str, amount: int, cause: bytes | None, sentence: str) -> None:
        """Add an amount; dead keys earn nothing."""
        account = self.account(node)
        if not account.banned and amount:
            self._book(node, rule, account.score + amount, cause, sentence)

    def lose(self, node: bytes, rule: str, keep: tuple[int, int], cause: bytes | None, sentence: str) -> None:
        """Keep only the fraction ``keep`` of the score."""
        account = self.account(node)
        if account.score:
            self._book(node, rule, account.score * keep[0] // keep[1], cause, sentence)

    def ban(self, node: bytes, rule: str, cause: bytes, sentence: str) -> None:
        """Score 0 and the key is dead, for good."""
        account = self.account(node)
        if account.banned:
            return
        self._book(node, rule, 0, cause, sentence)
        account.frauds += ONE
        account.banned, account.banned_cause = True, cause

    def close_round(self, worked: bool) -> None:
        """Let scores decay if the round's evidence settled a claim, and derive every node's trust.

        Time alone takes nothing: a mesh of two that idles overnight is still a mesh of two in the morning.
        """
        for account in self.accounts.values() if worked else ():
            account.score = account.score * DECAY >> 20
            account.frauds = account.frauds * DECAY_FRAUD >> 20
        self.derive()

    def derive(self) -> None:
        """Trust of every key from scores, frauds and the roots' share."""
        trust = {}
        for node, account in self.accounts.items():
            if account.banned:
                continue
            quality = ONE * (account.score + ONE) // (account.score + ONE + FRAUD_WEIGHT * account.frauds)
            amount = max(0, account.score - ENTRY) * quality // ONE * quality // ONE
            if amount:
                trust[node] = amount
        roots = sorted(node for node in self.roots if not self.account(node).banned)
        if roots:
            total, own = sum(trust.values()), sum(trust.get(node, 0) for node in roots)
            part, whole = ROOT_SHARE
            need = max(
                (part * total - whole * own) // (whole - part),
                ROOT_ENDOWMENT >> (self.round // HALF_LIFE),
                ROOT_FLOOR,
            )
            for node in roots:
                amount = trust.get(node, 0) + need // len(roots)
                if amount:
                    trust[node] = amount
        self.trust = trust


def influence(trust: Mapping[bytes, int]) -> dict[bytes, int]:
    """Each node's capped influence: ``min(t, 25 % of the total)``."""
    cap = sum(trust.values()) * INFLUENCE_CAP[0] // INFLUENCE_CAP[1]
    return {node: min(amount, cap) for node, amount in trust.items()}
