"""How a node comes to its mesh and stays in it: founding, joining, sealing, inviting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from spore_borg.errors import UsageError
from spore_borg.home import Home
from spore_borg.node import sealer, setup, ticket
from spore_borg.node.clock import Clock
from spore_borg.node.hub import Hub
from spore_borg.node.invitations import Invitations
from spore_borg.records.bodies import ONE
from spore_borg.records.keys import SigningKey, verify
from spore_borg.records.onion import Onion, check
from spore_borg.views.reduce import invitation_message
from tests.world import World, h

Open = Callable[..., Hub]
HELLO = {"family": "CPU_TEST", "device": "toy", "memory_mb": 1, "cores": 2, "fingerprint": "ab" * 32}
ADDRESS = ("127.0.0.1", 8471)


def test_a_mesh_is_founded_once(open_hub: Open) -> None:
    hub = open_hub()
    hub.close()
    again = open_hub()
    assert again.mesh == hub.mesh and again.me == hub.me
    assert [record.kind for record in again.records] == ["genesis"]


def test_a_kill_between_founding_and_noting_it_down_founds_no_second_mesh(open_hub: Open) -> None:
    hub = open_hub()
    hub.log.set_meta("mesh", "")  # as if the kill came before the note
    hub.close()
    again = open_hub()
    assert again.mesh == hub.mesh and len(again.records) == 1
    assert again.log.meta("mesh") == str(hub.mesh)


def test_a_second_mesh_is_refused_and_nothing_changes(open_hub: Open) -> None:
    one, two = open_hub("1"), open_hub("2")
    with pytest.raises(UsageError, match="already belongs"):
        setup.open_hub(one.home, Invitations(two, ADDRESS).plain(), epoch_ms=1_000, name="")
    assert one.log.meta("mesh") == str(one.mesh) and one.log.meta("ticket") is None


def test_a_damaged_ticket_makes_no_directory_a_member(tmp_path: Path) -> None:
    home = Home(tmp_path / "new").create()
    with pytest.raises(UsageError, match="whole ticket"):
        setup.open_hub(home, "borg1abc", epoch_ms=1_000, name="")
    assert not home.log.exists() and not home.key.exists()


def test_the_ticket_of_the_same_mesh_may_be_given_again(open_hub: Open) -> None:
    text = Invitations(open_hub("root"), ADDRESS).plain()
    first = open_hub("1", text)
    assert not first.has_written and first.clock is None
    first.close()
    assert open_hub("1", text).mesh == first.mesh


# ---- joining


def test_a_join_holds_over_restarts_and_is_renewed_when_its_facts_change(open_hub: Open) -> None:
    hub = open_hub()
    onion, first = setup.ensure_join(hub, HELLO, "research")
    hub.close()
    hub = open_hub()
    same, epoch = setup.ensure_join(hub, HELLO, "research")
    assert (same.anchor, epoch, len(hub.own("join"))) == (onion.anchor, first, 1)
    other, _ = setup.ensure_join(hub, {**HELLO, "fingerprint": "cd" * 32}, "research")
    assert len(hub.own("join")) == 2 and other.anchor != onion.anchor
    setup.ensure_join(hub, {**HELLO, "fingerprint": "cd" * 32}, "verify")
    assert [record.body.role for record in hub.own("join")] == ["research", "research", "verify"]
    more = setup.ensure_join(hub, {**HELLO, "fingerprint": "cd" * 32}, "verify", 10**9, 10**10)[0]
    last = hub.own("join")[-1].body
    assert (last.verify_bytes, last.verify_ops, last.anchor) == (10**9, 10**10, more.anchor)


def test_a_used_up_onion_is_replaced_before_its_end(open_hub: Open) -> None:
    hub = open_hub()
    onion, first = setup.ensure_join(hub, HELLO, "research")
    assert hub.clock is not None
    hub.clock.time_ms -= (onion.length - setup.ONION_MARGIN - 1) * hub.clock.epoch_ms
    assert setup.ensure_join(hub, HELLO, "research")[1] == first
    hub.clock.time_ms -= hub.clock.epoch_ms
    fresh, epoch = setup.ensure_join(hub, HELLO, "research")
    assert fresh.anchor != onion.anchor and epoch == hub.epoch()


def test_an_invitation_is_proven_once(open_hub: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    root = open_hub("root")
    monkeypatch.setitem(root.view.ledger.trust, root.me, 5 * ONE)
    text = Invitations(root, ADDRESS).fresh()
    assert text is not None
    given = ticket.parse(text)
    assert given.invite is not None and given.addresses == (ADDRESS,)
    guest = open_hub("guest", text)
    trio.run(guest.offer, [record.raw for record in root.records], b"\0" * 32)
    setup.ensure_join(guest, HELLO, "research")
    (join,) = guest.own("join")
    invite, proof = join.body.invite
    assert invite == given.invite[0] == root.own("invite")[0].cid
    assert verify(SigningKey(given.invite[1]).public, invitation_message(root.mesh, guest.me), proof)  # type: ignore[arg-type]
    setup.ensure_join(guest, HELLO, "verify")
    assert guest.own("join")[-1].body.invite is None


def test_a_ticket_stays_until_somebody_used_it(hub_in: Callable[[World, str], Hub]) -> None:
    world = World(7)
    world.populate()
    hub = hub_in(world, "root")
    assert hub.clock is not None
    hub.clock = Clock(int(time.time() * 1000) - 10_000, 1_000)  # the simulated epochs are of now
    maker = Invitations(hub, ("0.0.0.0", 8471))
    text = maker.current()
    assert text is not None and maker.current() == text == Invitations(hub, ("0.0.0.0", 8471)).current()
    assert all(host != "0.0.0.0" and port == 8471 for host, port in ticket.parse(text).addresses)
    hub.view.invite_uses[hub.own("invite")[-1].cid] = 1
    assert maker.current() != text


def test_without_trust_there_is_a_plain_ticket_only(open_hub: Open) -> None:
    root = open_hub("root")
    guest = open_hub("guest", Invitations(root, ADDRESS).plain())
    maker = Invitations(guest, ADDRESS)
    assert maker.fresh() is None and maker.current() is None
    assert ticket.parse(maker.plain()).invite is None


# ---- sealing


def test_one_seal_an_epoch_and_a_new_onion_when_the_old_one_ends(open_hub: Open) -> None:
    hub = open_hub(epoch_ms=200)
    short = [Onion(h("onion", number), setup.ONION_MARGIN + 3) for number in range(9)]
    firsts: list[int] = []

    def joined() -> tuple[Onion, int]:
        firsts.append(hub.epoch())
        return short[len(firsts) - 1], firsts[-1]

    async def some_epochs() -> None:
        with trio.move_on_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sealer.seal_forever, hub, joined)
                while len(hub.own("seal")) < 7:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()

    trio.run(some_epochs)
    seals = hub.own("seal")
    assert len(seals) >= 7 and len(firsts) >= 2
    epochs = [record.epoch for record in seals]
    assert epochs == sorted(set(epochs))
    for record in seals:
        number = max(at for at, first in enumerate(firsts) if first <= record.epoch)
        values = [(n, firsts[n]) for n in (number, number - 1) if n >= 0]
        assert any(check(short[n].anchor, record.body.value, record.epoch - first) for n, first in values)


def test_a_node_that_was_restarted_in_an_epoch_does_not_seal_it_twice(open_hub: Open) -> None:
    hub = open_hub(epoch_ms=400)
    onion = Onion(h("onion"), 10_000)
    first = hub.epoch()

    async def until_sealed(count: int) -> None:
        with trio.move_on_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sealer.seal_forever, hub, lambda: (onion, first))
                while len(hub.own("seal")) < count:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    for count in (1, 2):
        trio.run(until_sealed, count)
    one, two = (record.epoch for record in hub.own("seal"))
    assert one < two


def test_a_name_is_published_once_for_each_change(open_hub: Open) -> None:
    hub = open_hub()
    for name in ("", "ann", "ann", "bob"):
        setup.ensure_profile(hub, name)
    assert [record.body.display_name for record in hub.own("profile")] == ["ann", "bob"]


def test_init_makes_a_member_and_starts_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "pico", "name": "ann", "epoch_ms": 500, "join": None}
    one = setup.init(tmp_path / "1", options)
    assert setup.init(tmp_path / "1", {})["mesh"] == one["mesh"]
    assert "epoch_ms = 500" in (tmp_path / "1" / "config.toml").read_text()
