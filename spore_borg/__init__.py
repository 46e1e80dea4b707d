"""spore_borg: a verifiable research mesh. ``load(DIR)`` answers from its state; README.md is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from spore_borg.learn.local import State

__version__ = "0.1.0"


def load(directory: str | PathLike[str], device: str = "auto") -> State:
    """The absorbed models of a directory that ``borg state --fetch DIR`` or ``borg absorb --local`` wrote.

    They answer on ``device``: ``auto`` takes a card, where there is one, for models that are worth it.

    Imports torch. Raises ``spore_borg.learn.errors.LearnError`` if the directory holds no shard.
    """
    from spore_borg.learn.local import State

    return State(directory, device)


__all__ = ["__version__", "load"]
