"""The graph of records against networkx: ancestors, heads and reach, on random meshes."""

from __future__ import annotations

import random

import networkx as nx
import pytest

from spore_borg.records.envelope import Record
from spore_borg.views.dag import Dag, Reach
from tests.world import SimNode, World


def mesh(seed: int) -> list[Record]:
    """Records of a few nodes over a few epochs, with seals."""
    world = World(seed)
    root = SimNode("root", seed)
    world.found(root)
    ticket = world.invite(root)
    world.tick()
    for name in ("b", "c"):
        world.join(SimNode(name, seed), ticket)
    for _ in range(world.rng.randint(3, 6)):
        world.tick()
    return world.records


def graph(records: list[Record]) -> nx.DiGraph:
    """An edge from every record to each record that it names as seen."""
    made = nx.DiGraph()
    for record in records:
        made.add_node(record.cid)
        made.add_edges_from((record.cid, past) for past in record.past())
    return made


@pytest.mark.parametrize("seed", range(4))
def test_reach_is_the_set_of_descendants(seed: int) -> None:
    print(f"seed {seed}")
    records = mesh(seed)
    shuffled = random.Random(seed).sample(records, len(records))
    dag, oracle = Dag(shuffled), graph(records)
    assert nx.is_directed_acyclic_graph(oracle)
    for record in records:
        if record.kind == "seal":
            reach = Reach(dag)
            fresh = reach.extend(dag.index[record.cid])
            expected = nx.descendants(oracle, record.cid) | {record.cid}
            assert {dag.records[position].cid for position in fresh} == expected
            assert reach.extend(dag.index[record.cid]) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_missing_record_hides_exactly_its_future(seed: int) -> None:
    print(f"seed {seed}")
    records = mesh(seed)
    gone = random.Random(seed).choice(records[1:])
    dag, oracle = Dag(record for record in records if record is not gone), graph(records)
    hidden = nx.ancestors(oracle, gone.cid) | {gone.cid}
    assert set(dag.index) == {record.cid for record in records} - hidden
