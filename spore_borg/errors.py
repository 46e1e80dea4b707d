"""Every error that a user can meet: its docstring is the message template, its code the exit status.

Raise with keyword arguments; they fill the template: ``NoSuchRecord(cid=text)``.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_ERROR = 3
EXIT_NOT_FOUND = 4
EXIT_UNREACHABLE = 5
EXIT_INTEGRITY = 6
EXIT_LOCKED = 7
EXIT_NOT_ALLOWED = 8
EXIT_TIMED_OUT = 9
EXIT_INTERRUPTED = 130


class BorgError(Exception):
    """{detail}"""

    exit_code: ClassVar[int] = EXIT_ERROR

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        template = " ".join((type(self).__doc__ or "{detail}").split())
        super().__init__(template.format(**fields))


class UsageError(BorgError):
    """{detail}"""

    exit_code = EXIT_USAGE


class NotFound(BorgError):
    """No {what} {name}. {hint}"""

    exit_code = EXIT_NOT_FOUND


class NodeUnreachable(BorgError):
    """No node answers in {home}. Start one with `borg run`, or give its directory with --home."""

    exit_code = EXIT_UNREACHABLE


class IntegrityError(BorgError):
    """{what} is damaged: {detail}. {hint}"""

    exit_code = EXIT_INTEGRITY


class Locked(BorgError):
    """Another node (process {pid}) runs in {home}. Stop it, or choose another directory with --home."""

    exit_code = EXIT_LOCKED


class NotAllowed(BorgError):
    """{detail}"""

    exit_code = EXIT_NOT_ALLOWED


class TimedOut(BorgError):
    """{what} took longer than {limit_s} s. {hint}"""

    exit_code = EXIT_TIMED_OUT


class ConfigError(BorgError):
    """The setting {name} in {path} is not usable: {detail}. Correct it with `borg config set {name} VALUE`."""

    exit_code = EXIT_USAGE


class ProtocolError(BorgError):
    """{detail}"""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol: {detail}. Its connection is dropped; this node goes on."""


class LocalProtocolError(ProtocolError):
    """This node would break the protocol: {detail}. This is a defect: please report it."""
