"""The live view, at fixed widths."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from spore_borg.cli import live

STATE: dict[str, Any] = {
    "frontier": {
        "best": 2_271_543_210,
        "unit": "bits/byte",
        "gain": 31_543_210,
        "steps": 3,
        "status": "confirmed",
    },
    "run": {"what": "lr 0.004 → 0.006", "step": 120, "steps": 400, "loss": 2_345_678, "eta_s": 73},
    "verify": {"what": "T2 of …abcdefghij", "waiting": 4},
    "peers": [{"name": "ann", "latency_ms": 3}, *({"name": f"n{i}"} for i in range(5))],
    "reputation": {"trust": 3 << 19, "rank": 2},
    "events": [(epoch, "verdict", f"event {epoch}") for epoch in range(20)],
    "explorer_url": "http://localhost:8470",
    "ticket": "t" * 150,
    "mesh": "home",
    "status": "mesh",
    "round": 11,
    "digest": "ab" * 32,
}


def drawn(state: dict[str, Any], width: int, height: int | None = None) -> str:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(live.render(state, width, height))
    return capture.get()


@pytest.mark.parametrize("width", [20, 36, 60, 80, 200])
@pytest.mark.parametrize("state", [STATE, {}, {"run": None, "verify": None, "peers": [], "events": []}])
def test_it_fits(state: dict[str, Any], width: int) -> None:
    assert all(cell_len(line) <= width for line in drawn(state, width).splitlines())


def test_what_it_says() -> None:
    text = drawn(STATE, 100)
    for part in (
        "2.27154 bits/byte (+0.03154 in 3 steps, confirmed)",
        "120/400  loss 2.346  1 min 13 s left",
        "T2 of …abcdefghij; 4 waiting",
        "6: ann 3 ms, n0, n1, n2 and 2 more",
        "1.50, rank 2",
        "http://localhost:8470",
        "home, round 11, digest abababababababab",
        "event 19",
    ):
        assert part in text
    assert "event 11\n" not in text, "only the last events"


def test_the_ticket_is_whole_and_outside_the_frame() -> None:
    text = drawn({**STATE, "peers": []}, 80)
    tail = text[text.rindex("╯") + 1 :]
    assert "borgrun--join" + "t" * 150 in "".join(tail.split())


@pytest.mark.parametrize("peers", [[], STATE["peers"]])
@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (60, 20), (40, 14)])
def test_no_line_is_below_the_terminal(width: int, height: int, peers: list[dict[str, Any]]) -> None:
    text = drawn({**STATE, "ticket": "t" * 420, "peers": peers}, width, height)
    assert len(text.splitlines()) <= height
    assert "event 19" in text and ("t" * width in text or "`borg ticket` invites" in text)


def test_a_verifier_waits_for_no_experiment_of_its_own() -> None:
    assert "between experiments" not in drawn({**STATE, "run": None, "role": "verify"}, 80)
    assert "between experiments" in drawn({**STATE, "run": None, "role": "research"}, 80)


def test_what_stands_in_the_view_is_not_told_again() -> None:
    assert "http://x" not in drawn({**STATE, "events": [(1, "explorer", "at http://x")]}, 80)


def test_keys_of_peers_are_shortened() -> None:
    text = drawn({**STATE, "peers": [{"name": "abcdefgh" * 6}]}, 100)
    assert "1: abcdefgh" in text and "abcdefgha" not in text


def test_solo_is_said_plainly() -> None:
    assert "solo: unverified by others" in drawn({**STATE, "status": "solo"}, 80)


def test_texts_of_strangers_are_no_markup() -> None:
    text = drawn({**STATE, "events": [(1, "verdict", "[red]x[/red]\x1b[2J\n")], "mesh": "[bold]m"}, 100)
    assert "[red]x[/red] [2J" in text and "[bold]m" in text


def test_lines_off_a_terminal() -> None:
    assert live.line({"epoch": 3, "event": "published", "text": "lr up"}) == "epoch 3  published  lr up"
    assert live.line({"event": "peer", "name": "ann", "n": 2}) == "peer  name=ann n=2"
    assert "\n" not in live.line({"event": "x", "text": "a\nb"})


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (-1, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert live.duration(seconds) == text
