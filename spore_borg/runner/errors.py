"""Errors of the worker process, as its parent meets them."""

from __future__ import annotations

from spore_borg.errors import EXIT_TIMED_OUT, BorgError


class WorkerError(BorgError):
    """The worker process could not do {op}: {detail}"""


class WorkerRefused(WorkerError):
    """The worker refused {op} ({kind}): {detail}"""


class WorkerFailed(WorkerError):
    """The worker process ended during {op}: {detail}. The next call starts a new one."""


class WorkerTimedOut(WorkerError):
    """The worker process took longer than {limit_s} s for {op} and was ended. The next call starts a new one."""

    exit_code = EXIT_TIMED_OUT
