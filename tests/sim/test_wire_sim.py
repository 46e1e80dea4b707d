"""Eight cores in the simulator: the same set everywhere, and few bodies on the way."""

from __future__ import annotations

from random import Random

import pytest

from spore_borg.sim.toy import ToyRecord, ToyStore, chain
from spore_borg.sim.wire import Net

NODES = 8


def fresh(net: Net, rng: Random, node: int) -> ToyRecord:
    heads = sorted(net.stores[node].records)[-2:]
    epochs = [net.stores[node].records[cid][0] for cid in heads]
    return ToyRecord(max(epochs, default=0), tuple(heads), rng.randbytes(200))


def test_each_record_needs_few_bodies_once_the_tree_stands():
    seed = 11
    print("seed", seed)
    rng = Random(seed)
    net = Net([ToyStore(chain(20)) for _ in range(NODES)], seed=seed)
    net.connect_all()
    net.run(3)
    for round_ in range(20):  # the tree grows
        net.publish(round_ % NODES, fresh(net, rng, round_ % NODES))
        net.run(1)
    before = net.traffic.bodies
    for _ in range(100):
        net.publish(rng.randrange(NODES), fresh(net, rng, 0))
        net.run(0.5)
    assert net.run(5, net.converged)
    bodies = (net.traffic.bodies - before) / 100
    print("bodies a record", bodies)
    assert NODES - 1 <= bodies <= 1.3 * (NODES - 1)
    assert not net.drops


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_converge_after_partitions_losses_and_duplicates(seed):
    print("seed", seed)
    rng = Random(seed)
    net = Net([ToyStore(chain(30)) for _ in range(NODES)], seed=seed, loss=0.002, repeat=0.1)
    for node in range(NODES):  # a ring with a few chords
        net.connect(node, (node + 1) % NODES)
    net.connect(0, 4)
    net.connect(2, 6)
    net.run(2)
    made = set(net.stores[0].records)
    for phase, group in enumerate([set(), {0, 1, 2}, {1, 3, 5, 7}, {4}]):
        net.partition(group)
        for _ in range(15):
            node = rng.randrange(NODES)
            record = fresh(net, rng, node)
            made.add(record.cid)
            net.publish(node, record)
            net.run(rng.uniform(0.0, 0.4))
        print("phase", phase, [len(store.records) for store in net.stores])
    net.partition(set())
    net.loss = 0.0
    assert net.run(90, net.converged), [len(store.records) for store in net.stores]
    assert set(net.stores[0].records) == made
    assert not net.drops


def test_a_node_that_was_away_gets_old_records_from_one_neighbour():
    records = chain(2_000)
    missing = set(Random(5).sample(range(1_000, 1_990), k=10))
    # The ten lack no children here: they are leaves of the toy DAG for whoever has not got them.
    have = [record for number, record in enumerate(records) if number not in missing]
    net = Net([ToyStore(records), ToyStore(have)], seed=5)
    net.connect(1, 0)
    assert net.run(10, net.converged)
    assert net.traffic.bytes <= 20_000 + 10 * 500
    assert net.traffic.by_kind["Records"] <= 10 * 600


@pytest.mark.parametrize("dialer", [0, 1])
def test_an_empty_node_gets_everything_whoever_dials(dialer):
    net = Net([ToyStore(chain(5_000)), ToyStore()], seed=6)
    net.connect(dialer, 1 - dialer)
    assert net.run(60, net.converged)
    assert net.stores[1].bodies <= 1.3 * 5_000  # those at the edge of two requests are offered twice
    assert not net.drops


def test_identical_stores_cost_little():
    net = Net([ToyStore(chain(5_000)), ToyStore(chain(5_000))], seed=7)
    net.connect(0, 1)
    net.run(2)
    recon = net.traffic.by_kind["Recon"] + net.traffic.by_kind["ReconReply"]
    print("bytes", recon, net.traffic.bytes)
    assert recon <= 400
    assert net.traffic.bytes <= 800


def test_same_seed_same_run():
    def trace() -> tuple[int, int, float]:
        net = Net([ToyStore(chain(200)) for _ in range(3)] + [ToyStore()], seed=9, loss=0.01)
        net.connect_all()
        net.run(20, net.converged)
        return net.traffic.bytes, net.traffic.messages, net.now_s

    assert trace() == trace()
