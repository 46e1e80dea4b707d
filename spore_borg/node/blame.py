"""Which error to tell when parts of the node failed together."""

from __future__ import annotations

from collections.abc import Iterator

from spore_borg.errors import BorgError


def one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that the user can act on; the group itself where a defect of ours is in it.

    Order: a defect, Ctrl-C, then the first that a part of the node raised.
    """
    leaves = list(_leaves(group))
    if any(not isinstance(error, KeyboardInterrupt | BorgError | OSError) for error in leaves):
        return group
    return next((error for error in leaves if isinstance(error, KeyboardInterrupt)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
