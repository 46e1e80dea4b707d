"""The digest of the code that measures covers what verification runs, and nothing else."""

from __future__ import annotations

import ast
from importlib import resources
from pathlib import Path

from spore_borg.learn import digest
from spore_borg.runner import absorb_ops, convert_ops

LEARN = Path(str(resources.files("spore_borg.learn")))


def covered() -> set[str]:
    return set(dict(digest._sources(resources.files("spore_borg.learn"), "")))


def module_files(dotted: str) -> set[str]:
    """The files of ``spore_borg.learn.…`` that importing a dotted name runs; empty where it is no module."""
    parts, found = dotted.split(".")[2:], set[str]()
    for count in range(len(parts) + 1):
        base = LEARN.joinpath(*parts[:count])
        if (base / "__init__.py").is_file():
            found.add(f"{(base / '__init__.py').relative_to(LEARN)}")
        elif base.with_suffix(".py").is_file():
            found.add(f"{base.with_suffix('.py').relative_to(LEARN)}")
    return found


def imports_of(path: Path) -> set[str]:
    """Files of ``learn`` that a file imports anywhere, except for types only."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set[str]()
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spore_borg.learn"):
            for name in node.names:
                found |= module_files(f"{node.module}.{name.name}")
        elif isinstance(node, ast.Import):
            for name in node.names:
                found |= module_files(name.name) if name.name.startswith("spore_borg.learn") else set()
    return found


def apart(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in digest.APART)


def reached() -> set[str]:
    """All files that the operations on claims run, through files that are not set apart."""
    todo = imports_of(Path(str(absorb_ops.__file__))) | imports_of(Path(str(convert_ops.__file__)))
    found = set[str]()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo |= set() if apart(name) else imports_of(LEARN / name)
    return found


def test_the_digest_covers_what_verification_runs_and_nothing_else() -> None:
    known = {name for name in reached() if not apart(name)}
    assert known - covered() == set(), "decides a number, but may change without a word"
    assert covered() - known == set(), "decides no number, but its change would part nodes"
    assert {"measure.py", "readout.py", "baseline.py", "shard.py", "spike/convert.py", "adapters/senses.py",
            "importers/onnx.py", "formats/safe.py", "lineage.py", "merging.py"} <= known  # fmt: skip


def test_what_is_apart_exists_and_is_used_only_where_it_decides_nothing() -> None:
    assert all((LEARN / name).exists() for name in digest.APART)
    used = {name.split("/")[0] for name in reached() if apart(name)} - {"__init__.py"}
    assert used == {"sources", "suite_data.py", "suite_files.py", "items.py"}
    # of items only the type; of the other three only what builds a suite
    for path in LEARN.rglob("*.py"):
        if apart(str(path.relative_to(LEARN))):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "spore_borg.learn.items":
                assert [name.name for name in node.names] == ["Item"], path
            elif isinstance(node, ast.ImportFrom) and node.module == "spore_borg.learn.suite_data":
                assert path.name.startswith("suite"), path


def test_reading_a_suite_needs_nothing_of_what_builds_it() -> None:
    tree = ast.parse((LEARN / "suite.py").read_text(encoding="utf-8"))
    names = {"suite_data", "suite_files", "sources", "Sizes", "SMALL", "Raw", "Fetch"}
    users = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and names & {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    }
    assert users == {"build", "_sources", "_fetched", "_speech"}
