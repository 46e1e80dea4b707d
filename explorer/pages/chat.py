"""``/chat``: ask the user's own documents and the absorbed models. Local only.

The explorer computes nothing and imports nothing that does: the question goes to ``borg ask`` in a process of its
own, one at a time, and its JSON is the page. A page of another site cannot ask: the server refuses that.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from explorer.db import Db
from explorer.pages.common import frame, loads_dict, objects
from explorer.values import Page
from spore_borg.errors import NotAllowed, UsageError

QUESTION_CHARS_MAX = 1_000
ANSWER_BYTES_MAX = 1 << 20
TIMEOUT_S = 120.0
COUNT = 4  # passages shown
TOKENS = 60  # what a language model may add
_one = threading.Lock()  # each question starts torch: two at once would only wait for each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of one of the user's documents, and which rankings found it at which place."""

    path: str
    start: int
    text: str
    found_by: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """An absorbed model that answered."""

    name: str
    cid: str
    part: str  # what it did: looked up passages, or continued the text
    share_ppm: int  # of the weight
    confirmed: bool  # other nodes have verified it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPage(Page):
    """A question and what there is to say to it."""

    name: ClassVar[str] = "chat"
    question: str
    passages: tuple[Passage, ...]
    completion: str
    speakers: tuple[Speaker, ...]
    hint: str  # what would make the answer better, or why there is none


def ask(home: Path, question: str, *, complete: bool) -> dict[str, object]:
    """What ``borg ask --json`` says; blocks, and takes a second at least.

    Raises:
        UsageError: the question is too long. NotAllowed: another question is being answered.
    """
    if len(question) > QUESTION_CHARS_MAX:
        raise UsageError(detail=f"The question has more than {QUESTION_CHARS_MAX} characters; shorten it.")
    if not _one.acquire(blocking=False):
        raise NotAllowed(detail="Another question is being answered. Ask again in a while.")
    try:
        return _run(home, question, complete)
    finally:
        _one.release()


def chat(db: Db, question: str = "", said: dict[str, object] | None = None) -> ChatPage:
    """Build the page of a question and what ``ask`` gave."""
    said = said or {}
    completion = said.get("completion")
    return ChatPage(
        frame=frame(db),
        question=question,
        passages=tuple(_passage(item) for item in objects(said.get("passages"))),
        completion=str(completion.get("text", "")) if isinstance(completion, dict) else "",
        speakers=(
            *(_speaker(item, "looked up") for item in objects(said.get("models"))),
            *(_speaker(item, "continued") for item in _models(completion)),
        ),
        hint=str(said.get("hint") or ""),
    )


def _run(home: Path, question: str, complete: bool) -> dict[str, object]:
    command = [
        sys.executable, "-m", "spore_borg", "--home", str(home), "ask", "--json", "--count", str(COUNT),
        *(["--complete", "--max-tokens", str(TOKENS)] if complete else []), "--", question,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
            timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {
            "hint": f"There was no answer within {TIMEOUT_S:.0f} s. `borg ask` on the command line waits longer."
        }
    value = loads_dict(done.stdout[:ANSWER_BYTES_MAX].decode(errors="replace"))
    error = value.get("error")
    if isinstance(error, dict):
        return {"hint": str(error.get("message", ""))}
    return value or {"hint": "The answer could not be read. `borg ask` on the command line says why."}


def _models(value: object) -> list[dict[str, object]]:
    return objects(value.get("models")) if isinstance(value, dict) else []


def _passage(item: dict[str, object]) -> Passage:
    found = item.get("found_by")
    start = item.get("start")
    return Passage(
        path=str(item.get("path", "")),
        start=start if isinstance(start, int) else 0,
        text=str(item.get("text", "")),
        found_by={str(k): v for k, v in found.items() if isinstance(v, int)}
        if isinstance(found, dict)
        else {},
    )


def _speaker(item: dict[str, object], part: str) -> Speaker:
    weight = item.get("weight")
    return Speaker(
        name=str(item.get("name", "")),
        cid=str(item.get("cid", "")),
        part=part,
        share_ppm=round(weight * 1_000_000) if isinstance(weight, int | float) else 0,
        confirmed=bool(item.get("confirmed")),
    )
