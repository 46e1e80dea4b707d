"""crdt-merge 0.11 as it is: what we build on, and what fails, so that a new release tells us which it changed."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from crdt_merge.clocks import VectorClock
from crdt_merge.core import GCounter, LWWMap
from crdt_merge.e4.typed_trust import TypedTrustScore
from crdt_merge.gossip import GossipState
from crdt_merge.merkle import MerkleTree
from crdt_merge.model.crdt_state import CRDTMergeState
from crdt_merge.model.strategies import get_strategy
from hypothesis import given
from hypothesis import strategies as st

from spore_borg.learn import crdt
from spore_borg.learn.errors import LearnError
from spore_borg.learn.state import Provenance, State

IDS = st.sets(st.sampled_from([f"cid{i}" for i in range(12)]))


def _state(names: str, strategy: str = "weight_average") -> CRDTMergeState:
    state = CRDTMergeState(strategy, seed=1)
    for name in names:
        state.add(np.full((2, 2), ord(name), np.float32), model_id=name, weight=1.0)
    return state


# What holds


def test_holds_add_only_states_join_in_any_order_to_the_same_bits() -> None:
    parts = [_state("ab"), _state("bc"), _state("d")]
    found = {
        (one.merge(two).merge(three).state_hash, one.merge(two.merge(three)).resolve().tobytes())
        for one, two, three in itertools.permutations(parts)
    }
    assert len(found) == 1


def test_holds_vector_clocks_counters_and_maps_with_distinct_nodes() -> None:
    a, b = VectorClock().increment("a").increment("a"), VectorClock().increment("b")
    assert a.merge(b).value == b.merge(a).value == {"a": 2, "b": 1}
    one, two = GCounter(), GCounter()
    one.increment("a", 2)
    two.increment("a", 1)
    two.increment("b", 5)
    assert one.merge(two).value == two.merge(one).value == 7
    left, right = LWWMap(), LWWMap()
    left.set("k", 1, 1.0, "n1")
    right.set("k", 2, 1.0, "n2")
    assert left.merge(right).value == right.merge(left).value


def test_holds_weight_average_honours_its_weights() -> None:
    tensors = [np.full(3, 1.0, np.float32), np.full(3, 3.0, np.float32)]
    assert np.allclose(crdt.weight_average(tensors, [0.9, 0.1]), 1.2)
    assert np.allclose(crdt.weight_average(tensors, [0.1, 0.9]), 2.8)
    with pytest.raises(LearnError):
        crdt.weight_average(tensors, [1.0])


# What fails: each of these is why something of ours stands in its place


def test_fails_remove_is_lost_in_a_join() -> None:
    whole, fewer = _state("ab"), _state("ab")
    fewer.remove("a")
    assert "a" in whole.merge(fewer).model_ids
    assert "a" in whole.merge(CRDTMergeState.from_dict(fewer.to_dict())).model_ids


def test_fails_merkle_roots_do_not_depend_on_the_keys() -> None:
    one, two = MerkleTree(), MerkleTree()
    one.insert("k1", {"v": 1})
    two.insert("k2", {"v": 1})
    assert one.root_hash == two.root_hash


def test_fails_merged_gossip_states_are_not_equal_both_ways() -> None:
    one, two = GossipState("a"), GossipState("b")
    one.update("k", 1)
    two.update("k", 2)
    assert one.merge(two).to_dict() != two.merge(one).to_dict()


def test_fails_an_accusation_raises_trust() -> None:
    proof = SimpleNamespace(verify=lambda: True)
    newcomer = TypedTrustScore.probationary()
    accused = newcomer.record_evidence("observer", "integrity", 0.1, proof)
    assert accused.overall_trust() > newcomer.overall_trust()


def test_fails_a_map_with_a_tie_depends_on_the_order() -> None:
    left, right = LWWMap(), LWWMap()
    left.set("k", 1, 1.0, "n")
    right.set("k", 2, 1.0, "n")
    assert left.merge(right).value != right.merge(left).value


@pytest.mark.parametrize("name", ["slerp", "linear"])
def test_fails_weights_are_ignored(name: str) -> None:
    tensors = [np.full((2, 2), 1.0, np.float32), np.full((2, 2), 3.0, np.float32)]
    first = get_strategy(name).merge(list(tensors), weights=[0.9, 0.1])
    assert np.array_equal(first, get_strategy(name).merge(list(tensors), weights=[0.1, 0.9]))


def test_fails_ties_shrinks_with_the_number_of_parts() -> None:
    base, delta = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    sizes = [
        float(np.asarray(get_strategy("ties").merge([delta] * n, weights=[1 / n] * n, base=base)).mean())
        for n in (2, 4, 8)
    ]
    assert sizes == pytest.approx([1 / 2, 1 / 4, 1 / 8])


# Ours on top of it


@given(IDS, IDS, IDS, IDS)
def test_the_state_is_a_set_and_removed_stays_removed(
    a: set[str], b: set[str], gone: set[str], late: set[str]
) -> None:
    def state(ids: set[str], removed: set[str], trust: int) -> State:
        return State({one: Provenance("n", one, "MIT", "embedder", "text", trust) for one in ids}, removed)

    one, two, three = state(a, gone, 1), state(b, set(), 2), state(late, set(), 3)
    joined = one.join(two).join(three)
    assert joined == three.join(two.join(one)) == joined.join(one).join(joined)
    assert joined.members() == tuple(sorted((a | b | late) - gone))
    assert joined.digest() == state(a | b | late, gone, 0).digest()
    assert all(joined.about(x).trust == 3 for x in late)
    assert (joined.digest() == state(a | b | late, set(), 0).digest()) == (not gone)


def test_members_by_modality_and_their_weights() -> None:
    state = State(
        {
            "a": Provenance("n", "x", "MIT", "embedder", "text", 5),
            "b": Provenance("n", "y", "MIT", "classifier", "image"),
        }
    )
    assert state.members("image") == ("b",)
    assert state.weights() == {"a": 5, "b": 1}
    with pytest.raises(LearnError):
        State({"a": Provenance("n", "x", "MIT", "embedder", "text", -1)})
    with pytest.raises(LearnError):
        crdt.GrowSet([""])


def test_clocks_and_counters_join() -> None:
    one, two = crdt.Clock({"a": 2}), crdt.Clock()
    two.tick("b")
    assert one.join(two).counts() == two.join(one).counts() == {"a": 2, "b": 1}
    left, right = crdt.Counter(), crdt.Counter()
    left.add("a", 3)
    right.add("b")
    assert left.join(right).join(left).value() == 4
    with pytest.raises(LearnError):
        left.add("a", 0)
