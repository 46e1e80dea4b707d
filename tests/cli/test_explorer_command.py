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


def test_it_writes_the_pages_as_files(borg: Borg, home: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    value = borg("--home", home, "explorer", "--export", site, "--records", "5", "--json").value
    assert value["index"] == str(site / "index.html")
    assert (site / "record" / f"{BETTER[0]}.html").is_file()
    assert value["files"] + 1 == sum(path.is_file() for path in site.rglob("*"))
    assert "Open " in borg("--home", home, "explorer", "--export", site).out
    assert borg("--home", tmp_path / "none", "explorer", "--export", tmp_path / "other").code == 4


def test_a_mirror_without_its_address_is_refused(borg: Borg, home: Path) -> None:
    result = borg("--home", home, "explorer", "--read-only", "--bind", "127.0.0.1:0")
    assert result.code == 2
    assert "--public-url" in result.err
    assert borg("--home", home, "explorer", "--bind", "nonsense", "--json").value["error"]["code"] == 2
