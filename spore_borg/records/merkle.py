"""Commitments: a Merkle-sum tree over salted losses, and a root over salted state digests.

The root of the first commits to the *sum* of its leaves, so a claimed metric cannot differ from the
losses behind it. Salts keep the leaves secret until the author opens them, so a verifier cannot copy
them. Source: Merkle sum trees (Maxwell); RFC 6962 for the domain separation; spec/40-verification.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LOSS_MAX = (1 << 62) - 1  # nano-bits of one block; with 32 bits of index no sum reaches the 16 bytes it has
_TOTAL_MAX = LOSS_MAX << 32


def salt(secret: bytes, index: int) -> bytes:
    """The 16-byte salt of one leaf, from the salt secret that the opening reveals."""
    return hashlib.sha256(b"spore-borg/salt\0" + secret + index.to_bytes(4, "big")).digest()[:16]


@dataclass(frozen=True, slots=True)
class SumNode:
    """A node of the tree: 32-byte hash and the integer sum below it."""

    digest: bytes
    total: int


def loss_leaf(secret: bytes, index: int, loss: int) -> SumNode:
    """The leaf of one block; the loss is a whole number of nano-bits from 0 to ``LOSS_MAX``."""
    if not 0 <= loss <= LOSS_MAX:
        raise ValueError("a loss is a non-negative number of nano-bits below 2^62")
    body = salt(secret, index) + index.to_bytes(4, "big") + loss.to_bytes(8, "big")
    return SumNode(hashlib.sha256(b"\0spore-borg/loss" + body).digest(), loss)


def _join(left: SumNode, right: SumNode) -> SumNode:
    total = left.total + right.total
    body = left.digest + left.total.to_bytes(16, "big") + right.digest + right.total.to_bytes(16, "big")
    return SumNode(hashlib.sha256(b"\1spore-borg/sum" + body).digest(), total)


def _crown(top: SumNode, count: int) -> SumNode:
    """The root: the top of the tree bound to its number of leaves, which no path tells by its length."""
    body = count.to_bytes(4, "big") + top.digest + top.total.to_bytes(16, "big")
    return SumNode(hashlib.sha256(b"\2spore-borg/root" + body).digest(), top.total)


def _levels(leaves: list[SumNode]) -> list[list[SumNode]]:
    levels = [leaves]
    while len(levels[-1]) > 1:
        row = levels[-1]
        pairs = [_join(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        levels.append(pairs + row[len(row) & ~1 :])  # an odd last node moves up unchanged
    return levels


def loss_root(secret: bytes, losses: list[int]) -> SumNode:
    """Root of the salted losses; its total is their sum."""
    if not losses:
        raise ValueError("a claim has at least one block")
    top = _levels([loss_leaf(secret, i, loss) for i, loss in enumerate(losses)])[-1][0]
    return _crown(top, len(losses))


def loss_proof(secret: bytes, losses: list[int], index: int) -> list[SumNode]:
    """The siblings from leaf ``index`` up to the root, lowest first."""
    levels = _levels([loss_leaf(secret, i, loss) for i, loss in enumerate(losses)])
    proof = []
    for row in levels[:-1]:
        if index ^ 1 < len(row):
            proof.append(row[index ^ 1])
        index >>= 1
    return proof


def check_proof(root: SumNode, leaf: SumNode, index: int, count: int, proof: list[SumNode]) -> bool:
    """Whether a leaf at ``index`` of ``count`` belongs to the root, hash and sum alike; never raises."""
    if not 0 <= index < count < 1 << 32:
        return False
    if any(len(item.digest) != 32 or not 0 <= item.total <= _TOTAL_MAX for item in (leaf, *proof)):
        return False
    node, rest, width = leaf, iter(proof), count
    while width > 1:
        if index ^ 1 < width:
            sibling = next(rest, None)
            if sibling is None:
                return False
            node = _join(sibling, node) if index & 1 else _join(node, sibling)
        index, width = index >> 1, (width + 1) >> 1
    return next(rest, None) is None and _crown(node, count) == root


def state_root(secret: bytes, digests: list[bytes]) -> bytes:
    """Root over the salted digests of the K+1 states; 32 bytes."""
    if not digests:
        raise ValueError("a training has at least one state")
    rows = [
        hashlib.sha256(b"\0spore-borg/state" + salt(secret, i) + digest).digest()
        for i, digest in enumerate(digests)
    ]
    while len(rows) > 1:
        pairs = [
            hashlib.sha256(b"\1spore-borg/node" + rows[i] + rows[i + 1]).digest()
            for i in range(0, len(rows) - 1, 2)
        ]
        rows = pairs + rows[len(rows) & ~1 :]
    return rows[0]


def state_digest(params: bytes, tail: bytes) -> bytes:
    """Digest of one training state: parameters, then optimizer, RNG and step."""
    return hashlib.sha256(b"state" + params + tail).digest()
