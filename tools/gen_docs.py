"""Write ``docs/reference/*.md`` from the program itself; ``--check`` says whether the files are up to date.

Exit status of ``--check``: 1 when a page differs, with its name on stderr.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
HEAD = "<!-- Made by `make docs` from {source}; edit that instead. -->\n\n"


def commands_page() -> str:
    """Every command with its options."""
    from spore_borg.cli import cli

    context = click.Context(cli, info_name="borg", max_content_width=100, terminal_width=100)
    parts = [HEAD.format(source="spore_borg/cli") + "# Commands\n"]
    for name, command, parent in walk(cli, context):
        with click.Context(command, info_name=name.split()[-1], parent=parent, terminal_width=100) as here:
            parts.append(f"## `{name}`\n\n```text\n{command.get_help(here).rstrip()}\n```\n")
    return "\n".join(parts)


def walk(
    group: click.Group, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context | None]]:
    """``(full name, command, parent context)`` of a group and everything below it, depth first."""
    yield context.command_path, group, context.parent
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from walk(command, click.Context(command, info_name=name, parent=context))
        elif command is not None:
            yield f"{context.command_path} {name}", command, context


def limits_page() -> str:
    """Every named limit with its value and its comment."""
    from spore_borg import limits

    path = Path(limits.__file__)
    lines = [
        HEAD.format(source="spore_borg/limits.py") + "# Limits\n",
        "A peer over a limit is dropped; the node goes on. Units are in the names.\n",
        "| limit | value | what it bounds |",
        "|---|---:|---|",
    ]
    for name, comment in constants(path.read_text(encoding="utf-8")):
        value = getattr(limits, name)
        lines.append(f"| `{name}` | {value:,} | {comment} |")
    return "\n".join(lines) + "\n"


def constants(source: str) -> list[tuple[str, str]]:
    """``(name, comment on its line)`` of every constant at the top of a module, in order."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return [
        (node.targets[0].id, comments.get(node.lineno, ""))
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]


def exit_codes_page() -> str:
    """Exit codes, and the errors that users can meet."""
    from spore_borg import errors

    lines = [
        HEAD.format(source="spore_borg/errors.py") + "# Exit codes and errors\n",
        "| code | name |",
        "|---:|---|",
        *(f"| {getattr(errors, name)} | `{name}` |" for name in vars(errors) if name.startswith("EXIT_")),
        "\n| error | code | message |",
        "|---|---:|---|",
    ]
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.BorgError):
            message = " ".join((kind.__doc__ or "").split())
            lines.append(f"| `{kind.__name__}` | {kind.exit_code} | {message} |")
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Every setting of ``config.toml``."""
    from spore_borg import config

    lines = [
        HEAD.format(source="spore_borg/config.py") + "# Settings\n",
        "In `config.toml` in the node's directory; `borg config set NAME VALUE` writes it. An option goes before the",
        f"environment (`{config.ENVIRONMENT_PREFIX}` and the name in capitals), that before the file, that before",
        "the default.\n",
        "| setting | default | allowed | what it is |",
        "|---|---|---|---|",
    ]
    for setting in config.SETTINGS.values():
        shown = {"True": "true", "False": "false", "()": ""}.get(str(setting.default), str(setting.default))
        lines.append(f"| `{setting.name}` | {shown} | {setting.range} | {setting.help} |")
    return "\n".join(lines) + "\n"


def reasons_page() -> str:
    """Every reason for which a record is not taken."""
    from spore_borg.records.reasons import REASONS

    lines = [
        HEAD.format(source="spore_borg/records/reasons.py") + "# Reason codes\n",
        "Why a record is not taken. The vectors in `spec/vectors` name the code that each invalid one must give.\n",
        "| code | why |",
        "|---|---|",
        *(f"| `{code}` | {sentence} |" for code, sentence in REASONS.items()),
    ]
    return "\n".join(lines) + "\n"


PAGES = {
    "commands.md": commands_page,
    "limits.md": limits_page,
    "settings.md": settings_page,
    "exit-codes.md": exit_codes_page,
    "reason-codes.md": reasons_page,
}


def stale() -> list[str]:
    """Names of the pages whose file differs from what the program says now."""
    return [name for name, make in PAGES.items() if not _same(REFERENCE / name, make())]


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail when a page is out of date"
    )
    if parser.parse_args().check:
        old = stale()
        for name in old:
            print(f"docs/reference/{name} is out of date: run `make docs`", file=sys.stderr)
        return 1 if old else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(
        0, str(ROOT)
    )  # as with `python -m`: the checkout, also where the package is not installed
    sys.exit(main())
