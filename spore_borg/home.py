"""The directory in which a node keeps everything: where it is, what is in it, and who is at work there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from spore_borg.errors import Locked, UsageError

ENVIRONMENT = "SPORE_BORG_HOME"
SOCKET_PATH_BYTES_MAX = 100  # a unix socket's path has at most 103 bytes on macOS and 107 on Linux


def resolve(option: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The home directory: the option, else ``SPORE_BORG_HOME``, else the platform's place for user data."""
    text = os.fspath(option) if option else (os.environ if environ is None else environ).get(ENVIRONMENT)
    return Path(text).expanduser().absolute() if text else user_data_path("spore-borg", appauthor=False)


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one node's files."""

    path: Path

    @classmethod
    def find(
        cls, option: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
    ) -> Home:
        """The home directory that these choices lead to; nothing is created. See ``resolve``."""
        return cls(resolve(option, environ))

    @property
    def config(self) -> Path:
        """Settings."""
        return self.path / "config.toml"

    @property
    def key(self) -> Path:
        """The node's secret: 32 bytes, readable by its owner only."""
        return self.path / "identity.key"

    @property
    def log(self) -> Path:
        """Every record."""
        return self.path / "log.sqlite"

    @property
    def views(self) -> Path:
        """The tables of the views."""
        return self.path / "views.sqlite"

    @property
    def blobs(self) -> Path:
        """Directory of the blobs."""
        return self.path / "blobs"

    @property
    def work(self) -> Path:
        """Experiments under way, and the secrets and evidence of claims that have no verdict yet: keep it."""
        return self.path / "work"

    @property
    def library(self) -> Path:
        """The user's own documents; no other node ever sees them."""
        return self.path / "library.sqlite"

    @property
    def lock_file(self) -> Path:
        """Held by the running node; contains its process id."""
        return self.path / "node.lock"

    @property
    def control(self) -> Path:
        """Socket on which the running node takes commands."""
        return self.path / "control.sock"

    @property
    def node_log(self) -> Path:
        """What the node had to say."""
        return self.path / "node.log"

    def create(self) -> Home:
        """Make the directory and those inside it, for this user only.

        Raises:
            UsageError: it cannot be made, belongs to someone else, or its path is too long for a socket.
        """
        if len(os.fsencode(self.control)) > SOCKET_PATH_BYTES_MAX:
            raise UsageError(
                detail=f"The path {self.path} is too long for a control socket "
                f"({SOCKET_PATH_BYTES_MAX} bytes with the file's name). Choose a shorter one with --home."
            )
        try:
            for path in (self.path, self.blobs, self.work):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                detail=f"The directory {self.path} cannot be made: {error.strerror}. Choose another with --home."
            ) from error
        status = self.path.stat()
        if status.st_uid != os.getuid():
            raise UsageError(
                detail=f"The directory {self.path} belongs to another user. Choose another with --home."
            )
        if status.st_mode & 0o077:
            self.path.chmod(0o700)
        return self

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only node at work here, until the block ends or the process does.

        Raises:
            Locked: another process is; the error names it.
        """
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Locked(pid=_read_pid(descriptor) or "of unknown number", home=self.path) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)  # gives the lock back; the file stays, so that nobody locks a deleted one

    def holder(self) -> int | None:
        """Process id of the node that runs here, or None."""
        with suppress(FileNotFoundError):
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_pid(descriptor) or 0
            finally:
                os.close(descriptor)
        return None


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
