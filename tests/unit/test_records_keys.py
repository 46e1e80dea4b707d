"""Keys, the hash onion and the commitments."""

from __future__ import annotations

import copy
import pickle
import random

import pytest

from spore_borg.records import keys, merkle, onion
from spore_borg.records.merkle import LOSS_MAX, SumNode

SECRET = b"s" * 32


class TestKeys:
    key = keys.SigningKey(b"k" * 32)

    def test_a_signature_fits_its_message_and_key_only(self) -> None:
        signature = self.key.sign(b"message")
        assert len(signature) == 64
        assert keys.verify(self.key.public, b"message", signature)
        assert not keys.verify(self.key.public, b"messagf", signature)
        assert not keys.verify(keys.SigningKey(b"l" * 32).public, b"message", signature)
        for size in (0, 63, 65):
            assert not keys.verify(self.key.public, b"message", (signature + b"\0")[:size])

    def test_rfc_8032_test_1(self) -> None:
        key = keys.SigningKey(
            bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        )
        assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        assert key.sign(b"").hex() == (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        )

    @pytest.mark.parametrize(
        "public", [b"", b"\1" * 31, bytes(32), bytes(33), b"\1" + bytes(31), b"\xff" * 32]
    )
    def test_what_is_no_key_is_not_usable_and_verifies_nothing(self, public: bytes) -> None:
        assert not keys.usable(public)
        assert not keys.verify(public, b"message", self.key.sign(b"message"))

    def test_a_secret_key_never_leaves(self) -> None:
        secret = (b"k" * 32).hex()
        assert secret not in repr(self.key)
        assert "k" * 32 not in repr(self.key)
        for leave in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="never serialised"):
                leave(self.key)
        assert not hasattr(self.key, "__dict__")

    def test_every_purpose_has_a_secret_of_its_own(self) -> None:
        purposes = ["", "a", "a\0", "onion/0", "onion/1", "a purpose with a long name/1",
                    "a purpose with a long name/2", "é"]  # fmt: skip
        derived = {self.key.derive(purpose) for purpose in purposes}
        assert len(derived) == len(purposes)
        assert all(len(secret) == 32 for secret in derived)
        assert self.key.derive("a") == keys.SigningKey(b"k" * 32).derive("a")
        assert self.key.derive("a") != keys.SigningKey(b"l" * 32).derive("a")

    def test_a_name_and_a_key_are_one_to_one(self) -> None:
        name = keys.node_name(self.key.public)
        assert len(name) == 52
        assert keys.parse_node_name(name) == self.key.public
        letters = "abcdefghijklmnopqrstuvwxyz234567"
        for letter in letters:
            if letter != name[-1] and letters.index(letter) >> 4 == letters.index(name[-1]) >> 4:
                with pytest.raises(ValueError):
                    keys.parse_node_name(name[:-1] + letter)
        for other in (
            "",
            name.upper(),
            name[:-1],
            name + "a",
            "1" + name[1:],
            "ſ" + name[1:],
            name[:-1] + "\n",
        ):
            with pytest.raises(ValueError):
                keys.parse_node_name(other)


class TestOnion:
    layers = onion.Onion(SECRET, 1300)

    def test_every_value_hashes_to_the_one_before(self) -> None:
        for index in range(1, 1301):
            assert onion.step(self.layers.value(index)) == self.layers.value(index - 1)
        assert self.layers.value(0) == self.layers.anchor

    @pytest.mark.parametrize("index", [0, 1, 511, 512, 513, 1024, 1299, 1300])
    def test_a_value_is_checked_with_and_without_a_known_one(self, index: int) -> None:
        value, anchor = self.layers.value(index), self.layers.anchor
        assert onion.check(anchor, value, index)
        for known in {0, index // 2, index}:
            assert onion.check(anchor, value, index, (known, self.layers.value(known)))
        later = (index + 1, self.layers.value(index + 1)) if index < 1300 else None
        assert onion.check(anchor, value, index, later)  # a later one is of no use and does no harm

    @pytest.mark.parametrize("index", [0, 1, 513, 1300])
    def test_an_altered_value_or_index_fails(self, index: int) -> None:
        value, anchor = self.layers.value(index), self.layers.anchor
        known = (index // 2, self.layers.value(index // 2))
        altered = bytes((value[0] ^ 1,)) + value[1:]
        for before in (None, known):
            assert not onion.check(anchor, altered, index, before)
            assert not onion.check(anchor, value, index + 1, before)
            assert not onion.check(anchor, value, index - 1, before)
            assert not onion.check(anchor, value[:31], index, before)
        assert not onion.check(altered, value, index)
        assert not onion.check(anchor, value, -1)
        assert not onion.check(anchor, value, onion.LENGTH + 1)

    @pytest.mark.parametrize("length", [0, 1, 511, 512, 513])
    def test_onions_of_every_length(self, length: int) -> None:
        layers = onion.Onion(SECRET, length)
        assert all(onion.check(layers.anchor, layers.value(index), index) for index in range(length + 1))
        for outside in (-1, length + 1):
            with pytest.raises(ValueError, match="join again"):
                layers.value(outside)

    def test_two_secrets_have_two_anchors(self) -> None:
        assert onion.Onion(b"t" * 32, 10).anchor != onion.Onion(SECRET, 10).anchor


def _flip(node: SumNode) -> SumNode:
    return SumNode(bytes((node.digest[0] ^ 1,)) + node.digest[1:], node.total)


class TestLossRoot:
    @pytest.mark.parametrize("count", range(1, 71))
    def test_every_leaf_has_a_proof_that_no_change_survives(self, count: int) -> None:
        chance = random.Random(count)
        losses = [chance.randrange(1 << 45) for _ in range(count)]
        root = merkle.loss_root(SECRET, losses)
        assert root.total == sum(losses)
        for index in range(count):
            leaf, proof = (
                merkle.loss_leaf(SECRET, index, losses[index]),
                merkle.loss_proof(SECRET, losses, index),
            )

            def holds(root=root, leaf=leaf, index=index, total=count, proof=proof) -> bool:  # type: ignore[no-untyped-def]
                return merkle.check_proof(root, leaf, index, total, proof)

            assert holds()
            assert not holds(leaf=merkle.loss_leaf(SECRET, index, losses[index] + 1))
            assert not holds(leaf=merkle.loss_leaf(b"t" * 32, index, losses[index]))
            assert not holds(leaf=SumNode(leaf.digest, leaf.total + 1))
            assert not holds(root=SumNode(root.digest, root.total + 1))
            assert not holds(root=_flip(root))
            assert not holds(proof=[*proof, leaf])
            for at in range(len(proof)):
                one, rest = proof[at], (proof[:at], proof[at + 1 :])
                assert not holds(proof=[*rest[0], *rest[1]])
                assert not holds(proof=[*rest[0], _flip(one), *rest[1]])
                assert not holds(proof=[*rest[0], SumNode(one.digest, one.total + 1), *rest[1]])
            for other in {index - 1, index + 1, count - 1 - index, index - count, index + count, -1} - {
                index
            }:
                assert not holds(index=other)
            for other in {0, -1, count - 1, count + 1, 2 * count, 1 << 40}:
                assert not holds(total=other)

    def test_a_total_moved_from_one_side_to_the_other_is_seen(self) -> None:
        losses = [5, 7]
        root = merkle.loss_root(SECRET, losses)
        leaf, (sibling,) = merkle.loss_leaf(SECRET, 0, 5), merkle.loss_proof(SECRET, losses, 0)
        moved = SumNode(leaf.digest, leaf.total + 1)
        assert not merkle.check_proof(root, moved, 0, 2, [SumNode(sibling.digest, sibling.total - 1)])

    @pytest.mark.parametrize("total", [-1, -(1 << 200), 1 << 127, 1 << 128, 1 << 4000])
    def test_an_absurd_total_or_digest_is_false_and_raises_nothing(self, total: int) -> None:
        losses = [5, 7]
        root, leaf = merkle.loss_root(SECRET, losses), merkle.loss_leaf(SECRET, 0, 5)
        assert not merkle.check_proof(root, leaf, 0, 2, [SumNode(bytes(32), total)])
        assert not merkle.check_proof(root, SumNode(leaf.digest, total), 0, 2, [leaf])
        assert not merkle.check_proof(root, leaf, 0, 2, [SumNode(b"", 1)])
        assert not merkle.check_proof(SumNode(b"", total), leaf, 0, 2, [leaf])

    def test_an_inner_node_is_no_leaf_and_the_root_is_bound_to_its_count(self) -> None:
        four, root = [1, 2, 3, 4], merkle.loss_root(SECRET, [1, 2, 3, 4])
        assert not merkle.check_proof(root, root, 0, 1, [])
        assert len({merkle.loss_root(SECRET, four[:count]).digest for count in (1, 2, 3, 4)}) == 4
        assert merkle.loss_root(SECRET, [0]).digest != merkle.loss_root(SECRET, [0, 0]).digest

    def test_bounds(self) -> None:
        assert merkle.loss_root(SECRET, [LOSS_MAX] * 256).total == LOSS_MAX * 256
        for loss in (-1, LOSS_MAX + 1):
            with pytest.raises(ValueError, match="nano-bits"):
                merkle.loss_leaf(SECRET, 0, loss)
        with pytest.raises(ValueError, match="at least one"):
            merkle.loss_root(SECRET, [])
        with pytest.raises(ValueError, match="at least one"):
            merkle.state_root(SECRET, [])


class TestStateRoot:
    @pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 33])
    def test_every_digest_place_and_secret_matters(self, count: int) -> None:
        digests = [bytes((index,)) * 32 for index in range(count)]
        root = merkle.state_root(SECRET, digests)
        others = {merkle.state_root(b"t" * 32, digests), merkle.state_root(SECRET, [*digests, digests[-1]])}
        for index in range(count):
            others.add(merkle.state_root(SECRET, [*digests[:index], b"x" * 32, *digests[index + 1 :]]))
        if count > 1:
            others.add(merkle.state_root(SECRET, digests[::-1]))
            others.add(merkle.state_root(SECRET, digests[:-1]))
        assert root not in others
        assert len(others) == count + (4 if count > 1 else 2)
