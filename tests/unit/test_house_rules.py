"""Rules of the house that no linter checks: sizes, hosts, paths, generated pages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES_PER_FILE = 500
LINES_PER_FUNCTION = 70
CODE_FOLDERS = ("spore_borg", "explorer", "workspace", "tools", "tests")
TEXT_ENDINGS = {".py", ".md", ".toml", ".yml", ".yaml", ".sql", ".js", ".css", ".html", ".json", ".cfg", ""}
# Hosts of package registries and of model hubs, and paths that exist on one machine only. Put together here, so that
# this file does not match itself.
HOSTS = re.compile(
    r"pypi\.(org|io)|python"
    + r"hosted\.org|download\.py"
    + r"torch\.org|registry\.npm"
    + r"js|deb\.deb"
    + r"ian"
)
PATHS = re.compile(r"(?<![\w.])/(home|Users|root|work|opt/(wheels|pypi))" + r"/[\w.-]")


def tracked() -> list[Path]:
    """Files of the repository: tracked ones, and new ones that git would not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    found = [ROOT / name.decode() for name in listing.stdout.split(b"\0") if name]
    assert len(found) > 50, "git lists too few files: is this a checkout?"
    return [path for path in found if path.is_file()]


def code() -> list[Path]:
    return [
        path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in CODE_FOLDERS
    ]


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in code()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES_PER_FILE
    }
    assert not long, f"files over {LINES_PER_FILE} lines: {long}"


def test_functions_are_short() -> None:
    long = []
    for path in code():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LINES_PER_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}")
    assert not long, f"functions over {LINES_PER_FUNCTION} lines:\n" + "\n".join(long)


def offences(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked()
        if path.suffix in TEXT_ENDINGS
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if (match := pattern.search(line))
    ]


def test_no_registry_hosts() -> None:
    assert offences(HOSTS) == []


def test_no_machine_paths() -> None:
    assert offences(PATHS) == []


@pytest.mark.parametrize("text", ["see https://pypi." + "org/simple", "url = download.py" + "torch.org/whl"])
def test_the_host_rule_bites(text: str) -> None:
    assert HOSTS.search(text)


@pytest.mark.parametrize("text", ["cd /work" + "/main", "'/home" + "/me/x'"])
def test_the_path_rule_bites(text: str) -> None:
    assert PATHS.search(text)


def test_dependencies_are_ranges() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [
        one for extra in project["optional-dependencies"].values() for one in extra
    ]
    assert wanted
    for requirement in wanted:
        assert "==" not in requirement.split(";")[0], requirement
        assert "<" in requirement, f"{requirement}: no upper end"


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/gen_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_scripts_parse() -> None:
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, ".ci/run is not executable"
    done = subprocess.run(
        ["make", "--dry-run", "test", "run", "VENV=.venv-none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_adr_numbers_are_unique() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs/adr").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers)) >= 3


def test_local_links_lead_somewhere() -> None:
    broken = []
    for path in tracked():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)} → {target}")
    assert not broken
