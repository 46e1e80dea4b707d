"""``borg explorer``: serves, says where, stops on a signal, and fails with a word."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from .conftest import BETTER, Borg

MAIN = [sys.executable, "-c", "from spore_borg.cli import main; main()"]


def test_it_serves_until_it_is_told_to_stop(home: Path) -> None:
    command = [*MAIN, "--home", str(home), "explorer", "--port", "0", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        url = json.loads(child.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}frontier.json", timeout=10) as answer:
            assert json.load(answer)["rows"][0]["cid"] == BETTER[0]
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=15) in {0, 130}
    finally:
        child.kill()
        child.communicate()


def test_a_taken_port(borg: Borg, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = borg("--home", home, "explorer", "--port", taken.getsockname()[1], "--json")
    assert result.code == result.value["error"]["code"] != 0
    assert "--next-free" in result.value["error"]["message"]
