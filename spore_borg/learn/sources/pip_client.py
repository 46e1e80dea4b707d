"""Runs in a process of its own: asks pip for a project's files and fetches one of them, and builds nothing.

``pip download`` asks a source distribution for its metadata and so runs its code. This program uses pip's own
configuration, session and index reader (indexes, mirrors, find-links, certificates, proxies, passwords are those that
the user gave to pip) and stops where pip would begin to prepare. Those parts of pip are not a public interface: where
they differ, the answer is ``{"differs": …}`` and nothing has been run.

Usage: ``python -I pip_client.py list NAME`` or ``… get NAME INDEX FILENAME DEST BYTES_MAX``; one line of JSON on
stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 20


def main(argv: list[str]) -> int:
    """Print one JSON object: ``files``, ``size``, or ``error`` or ``differs`` with a text."""
    # pip may print to stdout; the answer has it alone.
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer: dict[str, Any] = {}
    try:
        code = _command(argv, answer)
    except (ImportError, AttributeError, TypeError) as error:
        answer, code = {"differs": f"{type(error).__name__}: {error}"[:300]}, 1
    if not answer:
        answer = {"error": "pip ended without an answer"}
    print(json.dumps(answer), file=answer_to, flush=True)
    return code


def _command(argv: list[str], answer: dict[str, Any]) -> int:
    from pip._internal.commands.download import DownloadCommand
    from pip._internal.index.collector import parse_links

    class Ask(DownloadCommand):
        """pip's download command with another body: it looks and fetches, and prepares nothing."""

        def run(self, options: Any, args: list[str]) -> int:
            try:
                _answer(self, options, argv, answer, parse_links)
            except (ImportError, AttributeError, TypeError) as error:
                answer["differs"] = f"{type(error).__name__}: {error}"[:300]
                return 1
            return 0

    if not hasattr(Ask, "_build_package_finder") or not hasattr(Ask, "get_default_session"):
        raise AttributeError("pip's download command has other parts")
    ask = Ask("download", "ask", isolated=False)
    return int(ask.main(["--no-input", "--quiet", "--disable-pip-version-check", "--no-deps", argv[1]]))


def _answer(command: Any, options: Any, argv: list[str], answer: dict[str, Any], parse_links: Any) -> None:
    session = command.get_default_session(options)
    finder = command._build_package_finder(options=options, session=session)
    links = list(_links(finder._link_collector, argv[1], parse_links))
    if argv[0] == "list":
        answer["files"] = [
            {"filename": link.filename, "hash": [link.hash_name, link.hash], "yanked": bool(link.is_yanked)}
            for link in links
        ]
        return
    link = links[int(argv[2])]
    if link.filename != argv[3]:
        answer["error"] = "the index changed meanwhile; try again"
        return
    answer.update(_get(session, link, Path(argv[4]), int(argv[5])))


def _links(collector: Any, name: str, parse_links: Any) -> Iterable[Any]:
    """Every link of the project's pages and of the user's find-links, in pip's order."""

    def page(location: Any) -> list[Any]:
        response = collector.fetch_response(location)
        return [] if response is None else list(parse_links(response))

    found = collector.collect_sources(project_name=name, candidates_from_page=page)
    for source in [*found.find_links, *found.index_urls]:
        if source is not None:
            yield from source.page_candidates()
            yield from source.file_links()


def _get(session: Any, link: Any, dest: Path, bytes_max: int) -> dict[str, Any]:
    size = 0
    if link.is_file:
        with open(link.file_path, "rb") as source, dest.open("wb") as out:
            while piece := source.read(PIECE_BYTES):
                size += len(piece)
                if size > bytes_max:
                    return {"error": f"the file has more than {bytes_max} bytes"}
                out.write(piece)
        return {"size": size}
    with session.get(
        link.url_without_fragment, stream=True, headers={"Accept-Encoding": "identity"}
    ) as response:
        if response.status_code != 200:
            return {"error": f"the index answers {response.status_code} for {link.filename}"}
        with dest.open("wb") as out:
            for piece in response.iter_content(PIECE_BYTES):
                size += len(piece)
                if size > bytes_max:
                    return {"error": f"the file has more than {bytes_max} bytes"}
                out.write(piece)
    return {"size": size}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
