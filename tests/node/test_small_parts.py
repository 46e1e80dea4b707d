"""Tickets, the key file, the drawer, the errors that are told, and the cheats: what needs no mesh."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spore_borg.errors import BorgError, IntegrityError, Locked, UsageError
from spore_borg.node import blame, identity
from spore_borg.node.cheats import CHEATS
from spore_borg.node.drawer import Drawer, pack_found, pack_run, unpack_found, unpack_run
from spore_borg.node.hub import Hub
from spore_borg.node.researcher import Researcher
from spore_borg.node.ticket import PREFIX, Ticket, parse
from spore_borg.policies import prover
from spore_borg.records.canonical import encode
from spore_borg.records.cid import Cid

MESH, INVITE = Cid.of(b"genesis"), Cid.of(b"invite")
WHOLE = Ticket(MESH, (("192.0.2.7", 8471), ("::1", 1)), b"k" * 32, (INVITE, b"s" * 32))


@pytest.mark.parametrize("ticket", [WHOLE, dataclasses.replace(WHOLE, invite=None)])
def test_a_ticket_comes_back_as_it_was(ticket: Ticket) -> None:
    assert parse(f"  {ticket.text()}\n") == ticket
    assert parse(ticket.text().upper().replace("BORG1", "borg1")) == ticket


def test_every_truncation_of_a_ticket_is_told() -> None:
    text = WHOLE.text()
    for end in range(len(text)):
        with pytest.raises(UsageError):
            parse(text[:end])


def test_every_changed_character_of_a_ticket_is_told(rng: random.Random) -> None:
    text = WHOLE.text()
    for at in range(len(text)):
        for other in (*rng.sample("abcdefghijklmnopqrstuvwxyz234567", 4), "1", "!", "ß", "\0"):
            if other != text[at]:
                with pytest.raises(UsageError):
                    parse(text[:at] + other + text[at + 1 :])


def forged(**changes: Any) -> str:
    """A ticket with a good checksum and other content."""
    value = {"mesh": MESH, "addresses": [["h", 1]], "key": b"k" * 32, "invite": None, **changes}
    body = encode({name: item for name, item in value.items() if item != "absent"})
    return PREFIX + base64.b32encode(body + hashlib.sha256(body).digest()[:4]).decode().lower().rstrip("=")


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"short"},
        {"key": "text"}, {"addresses": []}, {"addresses": [["h", 0]]}, {"addresses": [["h", 70_000]]},
        {"addresses": [["h", -1]]}, {"addresses": [["h"]]}, {"addresses": [["", 1]] * 9}, {"addresses": 5},
        {"addresses": [["a\n", 1]]}, {"mesh": b"x" * 36}, {"mesh": "absent"}, {"invite": "ab"}, {"invite": [INVITE]},
        {"invite": [INVITE, b"short"]}, {"invite": [INVITE, b"s" * 32, 0]}, {"more": 1},
    ],
)  # fmt: skip
def test_forged_tickets_are_told(changes: dict[str, Any]) -> None:
    assert parse(forged()).key == b"k" * 32
    with pytest.raises(UsageError):
        parse(forged(**changes))


# ---- the key file


def test_the_key_file_is_the_owners_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    key, seed = identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again, same = identity.load_or_create(path)
    assert (again.public, same) == (key.public, seed)
    path.chmod(0o644)
    identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"00" * 31, b"00" * 33, b"zz" * 32, b"0" * 63])
def test_a_damaged_key_file_is_told_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="backup"):
        identity.load_or_create(path)
    assert path.read_bytes() == content


# ---- the drawer


def test_a_drawer_keeps_replaces_and_forgets(tmp_path: Path) -> None:
    drawer = Drawer(tmp_path / "d")
    drawer.put(b"\x01", {"a": 1})
    drawer.put(b"\x01", {"a": 2})
    assert Drawer(tmp_path / "d").get(b"\x01") == {"a": 2}
    assert drawer.get(b"\x02") is None
    drawer.drop(b"\x01")
    drawer.drop(b"\x01")
    assert drawer.get(b"\x01") is None
    assert list((tmp_path / "d").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff", b"[]", b"5"])
def test_a_damaged_file_in_a_drawer_is_as_none(tmp_path: Path, content: bytes) -> None:
    drawer = Drawer(tmp_path)
    (tmp_path / "01.json").write_bytes(content)
    assert drawer.get(b"\x01") is None


def test_a_write_that_is_cut_off_leaves_the_old_value(tmp_path: Path) -> None:
    drawer = Drawer(tmp_path)
    drawer.put(b"\x01", {"a": 1})
    with pytest.raises(TypeError):
        drawer.put(b"\x01", {"a": [object()]})
    assert drawer.get(b"\x01") == {"a": 1}


RUN = prover.Run((1, 2), (b"a" * 32, b"b" * 32), b"p" * 32, b"t" * 32, b"l" * 32, b"s" * 32)
FOUND = prover.Found(b"p" * 32, ((0, 5),), ((1, 2, b"a" * 32, b"b" * 32, b"c" * 32),), 7, ((3, 9),))


def test_runs_and_evidence_come_back_as_they_were() -> None:
    assert unpack_run(pack_run(RUN)) == RUN
    assert unpack_found(pack_found(b"n" * 16, FOUND)) == (b"n" * 16, FOUND)
    nothing = prover.Found(None, (), (), 0)
    assert unpack_found(pack_found(b"n" * 16, nothing)) == (b"n" * 16, nothing)


# ---- which error is told


def test_one_error_is_told_and_a_defect_is_never_hidden() -> None:
    mine, system = Locked(pid=1, home="h"), OSError(28, "No space left on device")
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [mine]), system])
    assert blame.one_of(group) is mine
    assert blame.one_of(BaseExceptionGroup("", [system])) is system
    interrupted = KeyboardInterrupt()
    assert blame.one_of(BaseExceptionGroup("", [BorgError(detail="x"), interrupted])) is interrupted
    defect = BaseExceptionGroup("", [mine, KeyError("x")])
    assert blame.one_of(defect) is defect


# ---- cheats change only what they say


ANSWER = {
    "losses": [1_000, 2_000], "digests": ["aa" * 32, "bb" * 32], "params": "cc" * 32, "tail": "dd" * 32,
}  # fmt: skip


def made(cheat: str, hub: Hub) -> tuple[Researcher, Researcher]:
    """A cheat and an honest one, in the same place."""
    pair = [
        kind(
            hub, None, None, lambda _: None, family="CPU_TEST", fingerprint=b"F" * 32, rng=random.Random(1),  # type: ignore[arg-type]
        )
        for kind in (CHEATS[cheat], Researcher)
    ]  # fmt: skip
    return pair[0], pair[1]


def test_the_fabricator_lowers_its_losses_only(open_hub: Callable[..., Hub]) -> None:
    cheat, honest = made("metric", open_hub())
    said, true = cheat.secrets(1, ANSWER), honest.secrets(1, ANSWER)
    assert true.losses == (1_000, 2_000) and said.losses == (950, 1_900)
    assert dataclasses.replace(said, losses=true.losses) == true


def test_the_pretender_trains_with_another_rate_only(
    open_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spore_borg.node import researcher
    from spore_borg.policies.operators import Proposal

    monkeypatch.setattr(researcher, "task_spec", lambda _task: {"name": "toy"})
    cheat, honest = made("process", open_hub())
    proposal = Proposal(recipe={"lr": 1_000, "width": 64}, bases=(), operator="baseline", why="first")
    said, true = (one.job(None, proposal, 7) for one in (cheat, honest))  # type: ignore[arg-type]
    assert said == {**true, "recipe": {"lr": 900, "width": 64}}
    assert proposal.recipe == {"lr": 1_000, "width": 64}  # what is signed stays the recipe
    assert cheat.secrets(1, ANSWER) == honest.secrets(1, ANSWER)
