"""The live view of ``borg run`` on a terminal, and its plain lines off one. Pure: a state in, a picture out.

:func:`render` takes one dict; every member may be missing:

``frontier``    ``{"best": nano-units, "unit", "gain": nano-units, "steps", "status": "confirmed" | "solo"}``
``run``         ``{"what", "step", "steps", "loss": micro-nats, "eta_s"}``, None between experiments
``verify``      ``{"what": text | None, "waiting": count}``
``peers``       ``[{"name", "latency_ms"}, …]``
``reputation``  ``{"trust": 2^-20, "rank"}``
``events``      ``[(epoch, event, text), …]``, oldest first
``role``        ``research``, ``verify`` or ``sync``
``explorer_url``, ``ticket``, ``mesh``, ``status`` ("solo" or "mesh"), ``round``, ``digest``
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

EVENTS_SHOWN = 8
EVENTS_LEFT = 3  # of them are kept when the ticket needs their lines; else it waits for `borg ticket`
SHOWN_ABOVE = frozenset(("ticket", "explorer"))  # events whose text stands in the view already
PEERS_SHOWN = 4
NAME_CHARACTERS = 24
LOSS = 1_000_000  # micro-nats in a nat
DASH = "–"


def render(state: dict[str, Any], width: int = 80, height: int | None = None) -> RenderableType:
    """The whole view. Fits any width: long texts end in an ellipsis, the ticket alone is folded.

    Args:
        width: characters in a line. height: lines; None: as many as there are. A low terminal shows fewer events,
            and only names the command that prints the ticket.
    """
    facts, invitation = _facts(state), _invitation(state)
    free = EVENTS_SHOWN if height is None else height - facts.row_count - len("╭━╰") - 1
    lines = -(-len(invitation) // max(1, width)) + 1 if invitation else 0
    if lines > free - EVENTS_LEFT:
        invitation, lines = "", 1
    events = [event for event in state.get("events") or [] if event[1] not in SHOWN_ABOVE]
    parts: list[RenderableType] = [
        facts,
        _progress(state.get("run")),
        _events(events[-max(1, min(EVENTS_SHOWN, free - lines)) :]),
    ]
    title = f"borg {_status(state)}"
    panel = Panel(Group(*parts), title=title, title_align="left", border_style="dim", padding=(0, 1))
    if not state.get("ticket"):
        return panel
    if not invitation:
        return Group(panel, Text("`borg ticket` invites a node", overflow="ellipsis", no_wrap=True))
    # Outside the frame, so that it can be copied without the frame's characters.
    return Group(panel, Text(f"invite a second node:\n{invitation}", overflow="fold"))


def _invitation(state: dict[str, Any]) -> str:
    """The line to run elsewhere; with peers the mesh has its second node, and the room is better used."""
    return f"borg run --join {state['ticket']}" if state.get("ticket") and not state.get("peers") else ""


def line(event: dict[str, Any]) -> str:
    """One event as one plain line: ``epoch 12  published  lr 0.004 → 0.006``.

    Args:
        event: ``{"epoch", "event", "text", …}``; without ``text``, the other members as ``name=value``.
    """
    known = ("epoch", "event", "text", "time_ms")
    rest = " ".join(f"{name}={value}" for name, value in event.items() if name not in known)
    text = str(event.get("text") or rest)
    epoch = event.get("epoch")
    head = "" if epoch is None else f"epoch {epoch}  "
    return _plain(f"{head}{event.get('event', 'note')}  {text}")


def duration(seconds: float | None) -> str:
    """Seconds for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return DASH
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _status(state: dict[str, Any]) -> str:
    """Solo is said plainly: nobody else has checked these results."""
    return (
        "solo: unverified by others"
        if state.get("status") == "solo"
        else _plain(state.get("status") or "starting")
    )


def _facts(state: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    for name, value in (
        ("frontier", _frontier(state.get("frontier"))),
        ("running", _running(state)),
        ("verifying", _verifying(state.get("verify"))),
        ("peers", _peers(state.get("peers") or [])),
        ("trust", _trust(state.get("reputation"))),
        ("mesh", _mesh(state)),
        ("explorer", state.get("explorer_url") or DASH),
    ):
        table.add_row(name, Text(_plain(value), overflow="ellipsis", no_wrap=True))
    return table


def _frontier(best: dict[str, Any] | None) -> str:
    from explorer import show

    if not best or best.get("best") is None:
        return "no accepted result yet"
    steps = best.get("steps") or 0
    unit = best.get("unit") or ""
    gained = f"{show.gain(best.get('gain'))} in {steps} step{'' if steps == 1 else 's'}"
    word = f", {best['status']}" if best.get("status") else ""
    return f"{show.metric(best['best'])} {unit}".strip() + f" ({gained}{word})"


def _running(state: dict[str, Any]) -> str:
    if run := state.get("run"):
        return str(run.get("what") or "an experiment")
    others = {"verify": "no experiments: verifies only", "sync": "no experiments: keeps records only"}
    return others.get(str(state.get("role")), "between experiments")


def _verifying(verify: dict[str, Any] | None) -> str:
    if not verify:
        return DASH
    waiting = verify.get("waiting") or 0
    return f"{verify.get('what') or 'nothing now'}; {waiting} waiting"


def _peers(peers: list[dict[str, Any]]) -> str:
    if not peers:
        return "none"
    shown = [
        _short(str(peer.get("name") or "?"))
        + (f" {peer['latency_ms']:.0f} ms" if peer.get("latency_ms") is not None else "")
        for peer in peers[:PEERS_SHOWN]
    ]
    more = len(peers) - len(shown)
    return f"{len(peers)}: " + ", ".join(shown) + (f" and {more} more" if more else "")


def _short(name: str) -> str:
    """A display name as it is; of a key (52 characters) its beginning."""
    return name if len(name) <= NAME_CHARACTERS else name[:8]


def _trust(reputation: dict[str, Any] | None) -> str:
    from explorer import show

    if not reputation:
        return DASH
    rank = reputation.get("rank")
    return show.trust(reputation.get("trust")) + (f", rank {rank}" if rank else "")


def _mesh(state: dict[str, Any]) -> str:
    digest = str(state.get("digest") or DASH)
    return f"{state.get('mesh') or DASH}, round {state.get('round', DASH)}, digest {digest[:16]}"


def _progress(run: dict[str, Any] | None) -> RenderableType:
    """Bar, steps, loss and the time left of the running experiment."""
    step, steps = (int(run.get("step") or 0), int(run.get("steps") or 0)) if run else (0, 0)
    words = ""
    if run:
        loss = run.get("loss")
        shown = "" if loss is None else f"loss {loss / LOSS:.3f}  "
        words = f"{step}/{steps}  {shown}{duration(run.get('eta_s'))} left"
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1)
    table.add_column(no_wrap=True, justify="right")
    table.add_row(ProgressBar(total=max(steps, 1), completed=min(step, steps)), Text(words))
    return table


def _events(events: list[tuple[int, str, str]]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1)
    for epoch, event, text in events:
        table.add_row(str(epoch), _plain(event), Text(_plain(text), overflow="ellipsis", no_wrap=True))
    return table


def _plain(text: object) -> str:
    """One line without control characters: parts of it come from strangers."""
    return "".join(char if char.isprintable() else " " for char in str(text))
