"""``borg ask``: what the user's documents say about a question, found by the absorbed models."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import asking
from spore_borg.cli import frame as cli
from spore_borg.errors import NotFound


@cli.command("ask")
@click.argument("question", nargs=-1, required=True)
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(1, 50),
    default=3,
    show_default=True,
    help="How many passages to show.",
)
@click.option(
    "--complete", is_flag=True, help="Let a language model go on from the question and the best passage."
)
@click.option(
    "--max-tokens",
    metavar="N",
    type=click.IntRange(1, 2_048),
    default=80,
    show_default=True,
    help="Length of what it adds.",
)
def command(frame: cli.Frame, question: tuple[str, ...], count: int, complete: bool, max_tokens: int) -> None:
    """What your documents say about a question, found by absorbed models.

    `borg ingest` takes documents in; the answer says where it comes from and which models found it.

    Passages are found by words and by meaning. Nothing leaves this machine.
    """
    import trio

    from spore_borg.node.answering import answer

    text = " ".join(question)
    value = trio.run(answer, frame.home, text, count, max_tokens if complete else 0)
    if not value["passages"] and not value["completion"]:
        raise NotFound(what="answer to", name=repr(text[:80]), hint=value["hint"])
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """Passages with their sources, then who answered."""
    parts = []
    for number, hit in enumerate(value["passages"], 1):
        ways = ", ".join(f"{name} #{rank}" for name, rank in hit["found_by"].items())
        quoted = "\n".join(f"  {cli.one_line(line)}" for line in hit["text"].splitlines())
        parts.append(
            f"{number}. {cli.one_line(hit['path'])} (at character {hit['start']}; by {ways})\n{quoted}"
        )
    if value["completion"]:
        parts.append(cli.one_line(value["completion"]["text"]))
    models = value["models"] + (value["completion"]["models"] if value["completion"] else [])
    if models:
        parts.append(f"(by {asking.spoke(models)})")
    if value["hint"]:
        parts.append(value["hint"])
    return "\n\n".join(parts)
