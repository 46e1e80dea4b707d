"""The API keeps its own description: schemathesis asks a running server what the description allows, and what not.

All its checks: no defect (5xx), only documented statuses and media types, bodies as described; what fits is accepted,
what does not fit is refused. ``SPORE_BORG_API_EXAMPLES`` asks for more than the few of a normal run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pages.conftest import Client

SEED = 20_260
FEW, MANY = 1, 60
Homes = Callable[[str], Path]


def ask(url: str, folder: Path, examples: int) -> str:
    """One run over every address of the description; gives what it said."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all", "--no-color",
        "--seed", str(SEED), "--max-examples", str(examples), "--phases", "examples,coverage,fuzzing",
        "--generation-database", "none", "--request-timeout", "20", "--continue-on-failure",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1_200, check=False)
    print(f"seed {SEED}, {examples} examples\n{done.stdout[-6_000:]}{done.stderr[-2_000:]}")
    assert done.returncode == 0, "the server and its description disagree: see above"
    return done.stdout


def check(state: str, homes: Homes, serve: Callable[[Path], str], folder: Path, examples: int) -> None:
    """The description is kept, and nearly every address answered with more than errors."""
    said = ask(serve(homes(state)), folder, examples)
    counted = re.search(r"Tested: (\d+)", said)
    generated = re.search(r"(\d+) generated", said)
    assert counted and int(counted[1]) > 50
    assert generated and int(generated[1]) > 500


def test_a_few_of_each(homes: Homes, serve: Callable[[Path], str], tmp_path: Path) -> None:
    check("hostile", homes, serve, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["empty", "one", "hostile", "mesh"])
def test_many_of_each(state: str, homes: Homes, serve: Callable[[Path], str], tmp_path: Path) -> None:
    check(state, homes, serve, tmp_path, int(os.environ.get("SPORE_BORG_API_EXAMPLES", MANY)))


@pytest.mark.parametrize(
    "path",
    ["/nothing.json", "/record/x.json", "/record/x.cbor", "/records.csv?verdict=x", "/records.parquet?verdict=x",
     "/records.ndjson?author=x", "/events?topics=all", "/records.json?q=" + "a" * 201, "/verify.json?after=x"],
)  # fmt: skip
def test_errors_of_data_are_problems(path: str, client: Callable[[str], Client]) -> None:
    for accept in ("*/*", "text/html", "application/json"):
        answer = client("one").get(path, accept=accept)
        assert answer.status_code in {400, 404}
        assert answer.headers["content-type"] == "application/problem+json", (path, accept)
        value = answer.json()
        assert value["status"] == answer.status_code
        assert {"type", "title", "detail"} < set(value)
