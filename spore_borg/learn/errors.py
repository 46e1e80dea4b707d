"""What can be wrong with a model, a shard or a question, as one sentence that says what to do."""

from __future__ import annotations


class LearnError(ValueError):
    """The base: a message for the user, never a traceback."""


class SourceError(LearnError):
    """A source that cannot be fetched or read, or that would execute code when it is loaded."""


class GraphError(LearnError):
    """A graph that cannot be run: an unknown operator, a missing tensor, a shape that does not fit."""


class ShardError(LearnError):
    """A file that is no shard, is damaged, or asks for more than a node gives."""


class SuiteError(LearnError):
    """A probe suite that is damaged or cannot be built."""
