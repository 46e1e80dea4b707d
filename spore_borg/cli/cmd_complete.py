"""``borg complete``: go on with a text, or fill its [MASK]s, by the absorbed language models."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import asking
from spore_borg.cli import frame as cli


@cli.command("complete")
@click.argument("prompt", nargs=-1, metavar="[TEXT]…")
@click.option("--model", metavar="NAME", help="Only this model (name or id).")
@click.option("--modality", type=click.Choice(["text", "smiles"]), help="What the text is.")
@click.option(
    "--max-tokens",
    metavar="N",
    type=click.IntRange(1, 2_048),
    default=80,
    show_default=True,
    help="At most so many.",
)
@click.option(
    "--temperature",
    metavar="X",
    type=click.FloatRange(0, 5),
    default=0.5,
    show_default=True,
    help="0: always the likeliest.",
)
@click.option(
    "--seed", metavar="N", type=int, default=0, show_default=True, help="The same seed gives the same text."
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(1, 50),
    default=5,
    show_default=True,
    help="Guesses shown for each [MASK].",
)
def command(
    frame: cli.Frame, prompt: tuple[str, ...], model: str | None, modality: str | None, max_tokens: int,
    temperature: float, seed: int, top: int,
) -> None:  # fmt: skip
    """Go on with a text, or fill in its [MASK]s.

    A text with [MASK] in it goes to a masked language model, any other to a causal one; molecules and reactions
    (SMILES) to a model that reads those.
    """
    from spore_borg.node.asking import ask
    from spore_borg.store.voices import MASK, choose

    given = asking.items_of((" ".join(prompt),) if prompt else ())
    kind = asking.modality_of(given, modality)
    what = "fill" if any(MASK.search(item.get("text", "")) for item in given) else "complete"
    options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "top": top}
    answers = ask(
        frame.home, "complete", lambda known: choose(known, what, kind, model=model, most=3), given, options
    )
    rows = [{"item": item, **said} for item, said in zip(given, answers, strict=True)]
    cli.output(frame, {"items": rows, "modality": kind}, render)


def render(value: dict[str, Any]) -> str:
    """The text of the weightiest model, the guesses for masks, and who answered."""
    parts = []
    for row in value["items"]:
        text = "\n".join(cli.one_line(line) for line in str(row["text"]).split("\n"))
        guesses = [line for model in row["models"] for line in _guesses(model)]
        parts.append("\n".join([text, *guesses, f"(by {asking.spoke(row['models'])})"]))
    return "\n\n".join(parts)


def _guesses(model: dict[str, Any]) -> list[str]:
    return [
        f"  {number}. "
        + "  ".join(f"{cli.one_line(str(g['token']))} {g['probability']:.2f}" for g in guesses)
        for number, guesses in enumerate(model.get("masks", ()), 1)
    ]
