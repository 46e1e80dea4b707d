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
from explorer.throttle import Mirror, networks, public_url
from spore_borg.errors import EXIT_LOCKED, BorgError, UsageError

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
        "--bind",
        metavar="ADDRESS[:PORT]",
        default="127.0.0.1",
        help="address to listen on (default: this machine only)",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port (default {PORT}; 0: any free one)")
    parser.add_argument(
        "--next-free", action="store_true", help="take the next free port if this one is taken"
    )
    parser.add_argument(
        "--read-only", action="store_true", help="be a public mirror: nothing local, limits for every client"
    )
    parser.add_argument("--public-url", metavar="URL", help="how the world reaches the mirror")
    parser.add_argument(
        "--trusted-proxy",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="believe X-Forwarded-For from this address or network; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="say where as one JSON value")
    return parser.parse_args(argv)


def split_bind(text: str, port: int) -> tuple[str, int]:
    """``(address, port)`` of ``ADDRESS``, ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``.

    Raises:
        UsageError: it is none of these.
    """
    address, given = text, ""
    if text.startswith("["):
        address, _, given = text[1:].partition("]")
        given = given.removeprefix(":")
    elif text.count(":") == 1:
        address, _, given = text.partition(":")
    try:
        is_loopback(address)
        number = int(given) if given else port
    except ValueError as error:
        detail = f"{text} is not an address. Give one such as 127.0.0.1 or 0.0.0.0:8470 with --bind."
        raise UsageError(detail=detail) from error
    return address, number


def mirror_of(options: argparse.Namespace) -> Mirror | None:
    """What the options say of a public mirror; None: none is wanted.

    Raises:
        UsageError: options that do not go together, or cannot be.
    """
    if not options.read_only:
        if options.public_url or options.trusted_proxy:
            raise UsageError(
                detail="--public-url and --trusted-proxy are for a public mirror: add --read-only."
            )
        return None
    if not options.public_url:
        raise UsageError(detail="A public mirror needs its address: add --public-url https://….")
    url, host = public_url(options.public_url)
    return Mirror(url=url, host=host, proxies=networks(options.trusted_proxy))


def shown_url(address: str, port: int) -> str:
    """Where to open what listens there."""
    name = {"127.0.0.1": "localhost"}.get(address, f"[{address}]" if ":" in address else address)
    return f"http://{name}:{port}/"


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        address, port = split_bind(options.bind, options.port)
        mirror = mirror_of(options)
    except BorgError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    try:
        sock = bind(address, port, options.next_free)
    except (OSError, OverflowError) as error:
        detail = (
            "is taken" if getattr(error, "errno", None) == errno.EADDRINUSE else f"cannot be used: {error}"
        )
        hint = "Choose another with --port, or add --next-free."
        print(f"Port {port} on {address} {detail}. {hint}", file=sys.stderr)
        return EXIT_LOCKED
    url = shown_url(address, sock.getsockname()[1])
    config = uvicorn.Config(
        make_app(options.home, loopback=is_loopback(address), mirror=mirror),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is worked out by throttle.client_of, and only for named proxies
        limit_concurrency=CONCURRENCY_MAX,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # until it serves, and when it has stopped
        signal.signal(number, _leave)
    server = Server(config)
    at = {"url": url} if mirror is None else {"url": url, "public_url": mirror.url}
    public = "" if mirror is None else f" (public mirror as {mirror.url})"
    server.greeting = json.dumps(at) if options.json else f"explorer: {url}{public}"
    server.run(sockets=[sock])
    return 0


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if os.name != "nt":
        os.umask(0o077)
    sys.exit(main())
