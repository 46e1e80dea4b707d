"""``borg embed``: vectors of texts or files from the absorbed embedders."""

from __future__ import annotations

from typing import Any

import click

from spore_borg.cli import asking
from spore_borg.cli import frame as cli


@cli.command("embed")
@click.argument("items", nargs=-1, metavar="[TEXT|FILE]…")
@click.option("--model", metavar="NAME", help="Only this model (name or id).")
@click.option(
    "--modality", type=click.Choice(["text", "smiles", "image", "audio", "bytes"]), help="What the items are."
)
def command(frame: cli.Frame, items: tuple[str, ...], model: str | None, modality: str | None) -> None:
    """Vectors of texts or files, from the absorbed models.

    Several embedders stand side by side in one vector, each scaled by its weight, so that a dot product is the
    weighted mean of their cosines. Without arguments it reads lines from stdin. Text shows how alike the items are;
    `--json` gives the numbers.
    """
    from spore_borg.node.asking import ask
    from spore_borg.store.voices import choose

    given = asking.items_of(items)
    kind = asking.modality_of(given, modality)
    answers = ask(frame.home, "embed", lambda known: choose(known, "embed", kind, model=model), given)
    value = {
        "items": [
            {"item": item, "embedding": said["embedding"]} for item, said in zip(given, answers, strict=True)
        ],
        "models": answers[0]["models"],
        "modality": kind,
    }
    cli.output(frame, value, render)


def render(value: dict[str, Any]) -> str:
    """The length of the vectors and how alike the items are."""
    rows = value["items"]
    names = [asking.label(row["item"]) for row in rows]
    head = f"{len(rows[0]['embedding'])} numbers each, by {asking.spoke(value['models'])}"
    if len(rows) == 1:
        return f"{head}\n{' '.join(f'{number:.4f}' for number in rows[0]['embedding'][:12])} …"
    alike = [[_dot(a["embedding"], b["embedding"]) for b in rows] for a in rows]
    numbers = [str(number) for number in range(1, len(rows) + 1)]
    table = cli.table(
        ["", "item", *(f"{number}>" for number in numbers)],
        [
            [n, name, *(f"{cosine:.2f}" for cosine in line)]
            for n, name, line in zip(numbers, names, alike, strict=True)
        ],
    )
    return f"{head}\nHow alike (cosine):\n{table}"


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
