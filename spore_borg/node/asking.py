"""Asks absorbed models: brings their shards here and lets a worker answer. Needs no running node for what is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trio

from spore_borg.config import load
from spore_borg.home import Home
from spore_borg.node.control_client import fetch_blob
from spore_borg.records.cid import Cid
from spore_borg.runner.client import Worker
from spore_borg.store.blobs import Blobs
from spore_borg.store.tables import Tables
from spore_borg.store.voices import Voice, voices

ANSWER_TIMEOUT_S = 600.0
BATCH = 64  # items of one request

Choose = Callable[[list[Voice]], Sequence[Voice]]
Item = Mapping[str, str]  # {"text": …} or {"path": …}


class Asker:
    """A worker that answers for one home directory; an async context manager.

    Args:
        threads: torch threads; answers are no evidence, so any number will do.
    Raises:
        ConfigError, UsageError: a setting that is not usable.
    """

    def __init__(self, home: Path, threads: int = 1) -> None:
        self.home = Home(home)
        self._worker = Worker(threads=threads, device=load(self.home.config).device)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._worker.stop()

    def known(self) -> list[Voice]:
        """The models of the state. Raises NotFound where no node has run."""
        db = Tables.open_readonly(self.home.views)
        try:
            return voices(db)
        finally:
            db.close()

    async def answer(
        self,
        what: str,
        chosen: Sequence[Voice],
        items: Sequence[Item],
        options: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers in the order of the items; each says which models spoke, with what weight.

        Raises:
            NotFound: a shard is not here, and no running node can bring it.
            WorkerRefused: an item cannot be read, or does not fit the models.
        """
        shards = [[v.cid, str(self._path(v)), v.weight] for v in chosen]
        names = {voice.cid: voice for voice in chosen}
        answers: list[dict[str, Any]] = []
        for start in range(0, len(items), BATCH):
            batch = [dict(item) for item in items[start : start + BATCH]]
            job = {"what": what, "shards": shards, "items": batch, "options": dict(options or {})}
            said = await self._worker.call("answer", job, timeout_s=ANSWER_TIMEOUT_S)
            answers.extend(said["answers"])
        for answer in answers:
            for model in answer.get("models", ()):
                voice = names[model["cid"]]
                model |= {"name": voice.name, "head": voice.head, "confirmed": voice.confirmed}
        return answers

    def _path(self, voice: Voice) -> Path:
        cid, blobs = Cid.parse(voice.weights), Blobs(self.home.blobs)
        if not blobs.has(cid):
            fetch_blob(self.home, cid)
        return blobs.path(cid)


def ask(
    home: Path, what: str, choose: Choose, items: Sequence[Item], options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One question in a worker of its own; ``choose`` picks the voices from those that are known."""

    async def one() -> list[dict[str, Any]]:
        async with Asker(home) as asker:
            return await asker.answer(what, choose(asker.known()), items, options)

    return trio.run(one)
