"""The worker's operation for people: answers from absorbed models, whose shards stay open between two questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spore_borg.learn.answers import Bank

Params = dict[str, Any]
_banks: list[Bank] = []  # one, made by the first question


def answer(params: Params, device: str = "auto") -> dict[str, Any]:
    """``what shards[[cid, path, weight]] items[] options{}`` → ``answers[]``; see ``learn.answers``.

    Args:
        device: as the worker was told; ``auto`` takes a card only for models that are worth it.

    Raises:
        LearnError: a request of another form, or nothing that answers it.
    """
    from spore_borg.learn.answers import Bank, Voice
    from spore_borg.learn.errors import LearnError

    if not _banks:
        _banks.append(Bank(device))
    try:
        voices = [Voice(str(cid), Path(path), float(weight)) for cid, path, weight in params["shards"]]
        what, items, options = str(params["what"]), list(params["items"]), dict(params.get("options") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise LearnError(f"answer needs what, shards [[cid, path, weight]] and items: {error}") from error
    return {"answers": _banks[0].answer(what, voices, items, options)}
