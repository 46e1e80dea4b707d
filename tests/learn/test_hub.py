"""``hf:`` by the hub's own client, against a hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from spore_borg.learn.sources import hub

WEIGHTS = save({"w": torch.arange(6.0)})
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Toy\n",
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"never fetched",
    "modeling_toy.py": b"raise SystemExit('never fetched')",
}


# What a hub answers for repositories that it does not give: status and the header that its client goes by.
REFUSED = {"gated": (403, "GatedRepo"), "private": (401, ""), "forbidden": (403, ""), "broken": (503, "")}


class Hub(BaseHTTPRequestHandler):
    """The few requests of the hub's protocol that a download makes; the client is the real one."""

    asked: list[str] = []  # noqa: RUF012 - shared by all requests of the one test

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        refused = REFUSED.get(path.removeprefix("/api/models/org/"))
        if refused is not None:
            self.send_response(refused[0])
            self.send_header("X-Error-Code", refused[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path == f"/api/models/org/toy/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": n, "size": len(raw), "oid": "0" * 40} for n, raw in HUB_FILES.items()
            ]
            raw, headers = json.dumps(tree).encode(), {}
        elif path.startswith("/api/models/org/toy"):
            siblings = [{"rfilename": name, "size": len(raw)} for name, raw in HUB_FILES.items()]
            raw, headers = json.dumps({"id": "org/toy", "sha": COMMIT, "siblings": siblings}).encode(), {}
        elif path.startswith(f"/org/toy/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in HUB_FILES:
            raw = HUB_FILES[path.rsplit("/", 1)[1]]
            headers = {"ETag": f'"{hashlib.sha256(raw).hexdigest()}"', "X-Repo-Commit": COMMIT}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(raw)


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.asked.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ASK_HUB = """
import json, sys
from pathlib import Path
from spore_borg.learn import sources
from spore_borg.learn.errors import SourceError
try:
    found = sources.fetch(sys.argv[1], Path(sys.argv[2]), offline=sys.argv[3] == "offline")
    print(json.dumps([[n for n, _ in found.files], found.origin, found.licence, found.name]))
except SourceError as error:
    print(json.dumps(str(error)))
"""


def ask_hub(source: str, tmp_path: Path, endpoint: str, how: str = "", **more: str) -> Any:
    """The client reads its settings when it is imported, so each question has a process of its own."""
    env = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }
    command = [sys.executable, "-c", ASK_HUB, source, str(tmp_path / "out"), how]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_hubs_model_comes_by_its_own_client_and_again_from_the_cache(endpoint: str, tmp_path: Path) -> None:
    expected = [["README.md", "config.json", "model.safetensors"], f"hf:org/toy@{COMMIT}", "mit", "toy"]
    assert ask_hub("hf:org/toy", tmp_path, endpoint) == expected
    assert not any(path.endswith((".py", ".bin")) for path in Hub.asked)
    count = len(Hub.asked)
    assert ask_hub(f"hf:org/toy@{COMMIT}", tmp_path, endpoint, "offline") == expected
    assert ask_hub("hf:org/toy", tmp_path, endpoint, "offline") == expected
    assert ask_hub(f"hf:org/toy@{COMMIT}:config.json", tmp_path, endpoint, HF_HUB_OFFLINE="1")[0] == [
        "config.json"
    ]
    assert len(Hub.asked) == count
    assert "not there, or private" in ask_hub("hf:org/absent", tmp_path, endpoint)
    assert "fetch it once while online" in ask_hub("hf:org/other", tmp_path, endpoint, "offline")


@pytest.mark.parametrize(
    ("name", "words"),
    [("gated", "accept its terms on"), ("private", "not there, or private"), ("forbidden", "needs the right"),
     ("broken", "Try again later")],
)  # fmt: skip
def test_what_a_hub_does_not_give_says_what_to_do(
    endpoint: str, tmp_path: Path, name: str, words: str
) -> None:
    said = ask_hub(f"hf:org/{name}", tmp_path, endpoint)
    assert words in said and f"hf:org/{name}" in said and len(said) < 200


def test_a_hub_that_cannot_be_reached_says_where_it_was_sought(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = ask_hub("hf:org/toy", tmp_path, nowhere)
    assert nowhere in said and "HF_ENDPOINT" in said and "HF_HUB_OFFLINE=1" in said


def test_of_a_hubs_files_no_second_copy_and_no_code_is_taken() -> None:
    present = [
        "README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "modeling_x.py",
        "onnx/model.onnx", "sub/pytorch_model.bin", "tokenizer.json", "vocab.txt", "training_args.bin",
    ]  # fmt: skip
    assert hub.pick(present, None, "x") == [
        "README.md", "config.json", "model.safetensors", "onnx/model.onnx", "sub/pytorch_model.bin", "tokenizer.json",
        "vocab.txt",
    ]  # fmt: skip
