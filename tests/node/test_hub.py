"""The hub: what it says to records that peers offer, what it signs, what it keeps, and when its view follows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import trio

from spore_borg.limits import FUTURE_EPOCHS_MAX
from spore_borg.node.hub import VERDICTS_TOLD_MAX, Hub
from spore_borg.protocol.events import Offered, Status
from spore_borg.records.bodies import Body, Genesis, Profile
from spore_borg.records.cid import Cid
from spore_borg.records.envelope import Record, sign
from spore_borg.records.keys import SigningKey
from spore_borg.store.tables import Tables
from spore_borg.views.reduce import View
from tests.node.conftest import EPOCH_MS
from tests.world import World, h

Open = Callable[..., Hub]
WHO = SigningKey(h("somebody"))


def profile(name: str = "somebody") -> Profile:
    return Profile(display_name=name, bio="", website="", avatar_url="", donation_address="")


def genesis(time_ms: int, name: str = "m") -> Record:
    body = Genesis(
        name=name, roots=(WHO.public,), time_ms=time_ms, epoch_ms=EPOCH_MS, nonce=b"n" * 16, params={}
    )
    return sign(WHO, body, mesh=None, seq=0, prev=None, epoch=0, parents=())


def after(first: Record, body: Body, epoch: int, mesh: Cid | None = None) -> Record:
    return sign(WHO, body, mesh=mesh or first.cid, seq=1, prev=first.cid, epoch=epoch, parents=(first.cid,))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def newcomer(open_hub: Open, mesh: Cid) -> Hub:
    """A hub that knows its mesh and nothing else yet."""
    hub = open_hub()
    other = Hub(type(hub.home)(hub.home.path.with_name("new")).create(), SigningKey(h("newcomer")), mesh)
    return other


def offer(hub: Hub, *raws: bytes) -> list[Offered]:
    return trio.run(hub.offer, list(raws), b"\0" * 32)


def words(answers: list[Offered]) -> list[Status]:
    return [answer.status for answer in answers]


def test_every_outcome_of_an_offer(open_hub: Open) -> None:
    first = genesis(now_ms())
    hub = newcomer(open_hub, first.cid)
    child = after(first, profile(), 0)
    try:
        (early,) = offer(hub, child.raw)
        assert (early.status, early.parents) == (Status.MISSING, (first.cid,))
        assert words(offer(hub, first.raw, child.raw, child.raw)) == [
            Status.STORED,
            Status.STORED,
            Status.KNOWN,
        ]
        assert words(offer(hub, first.raw)) == [Status.KNOWN]
        assert [record.cid for record in hub.records] == [first.cid, child.cid]

        foreign = after(genesis(1, "other"), profile(), 0)
        answers = offer(hub, b"", b"\xff" * 100, foreign.raw, genesis(1, "other").raw, child.raw[:-1])
        assert words(answers) == [Status.REFUSED] * 5 and all(answer.offence for answer in answers)
        assert [answer.code for answer in answers[2:4]] == ["wrong-mesh", "second-genesis"]
        forged = bytearray(child.raw)
        forged[-5] ^= 1
        assert words(offer(hub, bytes(forged))) == [Status.REFUSED]
    finally:
        hub.close()


def test_a_record_from_the_future_waits_and_the_clock_is_named_once(open_hub: Open) -> None:
    first = genesis(now_ms())
    hub = newcomer(open_hub, first.cid)
    early = [after(first, profile(str(number)), 100 + number) for number in range(3)]
    try:
        # in one batch with the genesis: there is no moment in which any epoch is believed
        answers = offer(hub, first.raw, *(record.raw for record in early))
        assert words(answers) == [Status.STORED, *[Status.NOT_YET] * 3]
        assert not any(answer.offence for answer in answers)
        assert [item["event"] for item in hub.events] == ["clock"]
    finally:
        hub.close()


def test_a_clock_behind_the_genesis_stands_at_its_first_epoch(open_hub: Open) -> None:
    first = genesis(now_ms() + 3_600_000)
    hub = newcomer(open_hub, first.cid)
    try:
        offer(hub, first.raw)
        assert hub.epoch() == 0
        assert hub.write(profile()).epoch == 0
    finally:
        hub.close()


def test_own_records_are_never_before_what_they_rest_on(open_hub: Open) -> None:
    first = genesis(now_ms())
    hub = newcomer(open_hub, first.cid)
    try:
        ahead = after(first, profile(), FUTURE_EPOCHS_MAX)
        assert words(offer(hub, first.raw, ahead.raw)) == [Status.STORED, Status.STORED]
        one, two = hub.write(profile("1")), hub.write(lambda epoch: profile(str(epoch)))
        assert one.epoch == two.epoch == FUTURE_EPOCHS_MAX and two.body.display_name == str(FUTURE_EPOCHS_MAX)
        assert ahead.cid in one.past() and two.prev == one.cid and two.seq == one.seq + 1
    finally:
        hub.close()


def test_many_heads_do_not_let_own_records_go_back_in_time(open_hub: Open) -> None:
    first = genesis(now_ms() - 10 * EPOCH_MS)
    hub = newcomer(open_hub, first.cid)
    try:
        offer(hub, first.raw)
        own = hub.write(profile("own"))
        assert hub.clock is not None and own.epoch == 10
        strangers = []
        for number in range(80):  # more heads than a record can name, so that the own one is not among them
            key = SigningKey(h("stranger", number))
            strangers.append(
                sign(key, profile(), mesh=first.cid, seq=0, prev=None, epoch=1, parents=(first.cid,))
            )
        offer(hub, *(record.raw for record in strangers))
        hub.clock.time_ms += 5 * EPOCH_MS  # the machine's clock was set back
        record = hub.write(profile("again"))
        assert own.cid not in record.parents and record.epoch == own.epoch
    finally:
        hub.close()


def test_records_outlast_a_restart_and_are_published_after_they_are_stored(open_hub: Open) -> None:
    hub = open_hub()
    stored: list[bool] = []
    hub.on_own = lambda records: stored.extend(hub.log.has(record.cid) for record in records)
    written = [hub.write(profile(str(number))) for number in range(3)]
    assert stored == [True] * 3
    hub.close()
    again = open_hub()
    assert [record.cid for record in again.own("profile")] == [record.cid for record in written]
    assert again.mesh == hub.mesh and again.has_written
    more = again.write(profile("more"))
    assert (more.seq, more.prev) == (written[-1].seq + 1, written[-1].cid)


def delete(views: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        views.with_name(views.name + suffix).unlink(missing_ok=True)


def test_views_that_somebody_deletes_are_made_again(open_hub: Open) -> None:
    hub = open_hub()
    hub.write(profile("here"))

    async def delete_and_go_on() -> None:
        await hub.refresh()
        delete(hub.home.views)
        await hub.publish_live({"run": {"what": "something"}})

    trio.run(delete_and_go_on)
    db = Tables.open_readonly(hub.home.views)
    try:
        assert db.execute("SELECT count(*) FROM record").fetchone()[0] == len(hub.records)
        live = db.execute("SELECT value FROM live WHERE key = 'run'").fetchone()[0]
        assert json.loads(live) == {"what": "something"}
    finally:
        db.close()


def test_a_refresh_is_the_same_as_a_fold_of_everything(hub_in: Callable[[World, str], Hub]) -> None:
    world = World(5)
    world.populate("a", "b")
    hub = hub_in(world, "a")
    before = len(world.records)
    view, _ = world.claim("a")
    fresh = world.records[before:]

    async def take(count: int) -> None:
        for at in range(0, len(fresh), count):
            await hub.offer([record.raw for record in fresh[at : at + count]], b"\0" * 32)
            await hub.refresh()

    trio.run(take, 7)
    assert hub.view.round == view.round and hub.view.digest_of(view.round) == view.digest_of(view.round)
    assert [item["verdict"] for item in hub.events if item["event"] == "verdict"] == ["accepted"]


def test_a_newcomer_is_not_told_a_whole_history(hub_in: Callable[[World, str], Hub]) -> None:
    world = World(6)
    world.populate()
    for number in range(VERDICTS_TOLD_MAX + 5):
        world.experiment(world.nodes["root"], 10**9 + number, None, label=number)
        world.tick()
    world.run(4)
    hub = hub_in(world, "root")
    hub._report(View([]), hub.view)
    names = [item["event"] for item in hub.events]
    assert names[0] == "verdicts" and names.count("verdict") == VERDICTS_TOLD_MAX
