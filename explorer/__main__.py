"""``python -m explorer --home DIR``: serve the pages of one home directory."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from explorer.app import Guard, make_app
from spore_borg.errors import EXIT_LOCKED, EXIT_USAGE

PORT = 8470
NEXT_FREE_TRIES = 100
CONCURRENCY_MAX = 512  # connections at once, streams included


def bind(address: str, port: int, next_free: bool) -> socket.socket:
    """A listening socket on the port, or on the next free one.

    Raises:
        OSError: the port is taken (and no other was wanted) or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for offset in range(NEXT_FREE_TRIES if next_free and port else 1):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port + offset))
            sock.listen(128)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or not next_free or offset == NEXT_FREE_TRIES - 1:
                raise
        else:
            sock.setblocking(False)
            return sock
    raise OSError(errno.EADDRINUSE, "no free port")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    return address == "localhost" or ipaddress.ip_address(address).is_loopback


class Server(uvicorn.Server):
    """uvicorn that says where it is once it answers, and ends its open streams when told to stop."""

    greeting = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say where."""
        await super().startup(sockets)
        print(self.greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop soon; the second time at once. (uvicorn would raise the signal again when it has stopped.)"""
        if isinstance(self.config.app, Guard):
            self.config.app.explorer.hub.close()
        self.force_exit = self.should_exit
        self.should_exit = True


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Told to stop: the normal end."""
    raise SystemExit(0)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m explorer", description="Serve the explorer's pages (read-only)."
    )
    parser.add_argument("--home", type=Path, required=True, help="a node's directory, or a copy of one")
    parser.add_argument(
        "--bind", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port (default {PORT}; 0: any free one)")
    parser.add_argument(
        "--next-free", action="store_true", help="take the next free port if this one is taken"
    )
    parser.add_argument("--json", action="store_true", help="say where as one JSON value")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        loopback = is_loopback(options.bind)
    except ValueError:
        print(f"{options.bind} is not an address. Give one such as 127.0.0.1 with --bind.", file=sys.stderr)
        return EXIT_USAGE
    try:
        sock = bind(options.bind, options.port, options.next_free)
    except (OSError, OverflowError) as error:
        detail = (
            "is taken" if getattr(error, "errno", None) == errno.EADDRINUSE else f"cannot be used: {error}"
        )
        hint = "Choose another with --port, or add --next-free."
        print(f"Port {options.port} on {options.bind} {detail}. {hint}", file=sys.stderr)
        return EXIT_LOCKED
    port = sock.getsockname()[1]
    shown = (
        "localhost"
        if options.bind == "127.0.0.1"
        else f"[{options.bind}]"
        if ":" in options.bind
        else options.bind
    )
    url = f"http://{shown}:{port}/"
    config = uvicorn.Config(
        make_app(options.home, loopback=loopback),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONCURRENCY_MAX,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # until it serves, and when it has stopped
        signal.signal(number, _leave)
    server = Server(config)
    server.greeting = json.dumps({"url": url}) if options.json else f"explorer: {url}"
    server.run(sockets=[sock])
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if os.name != "nt":
        os.umask(0o077)
    sys.exit(main())
