"""``borg bench``: run the measurements of the source tree, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from spore_borg.cli import frame as cli
from spore_borg.errors import NotFound, UsageError


@cli.command("bench")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--no-peer", is_flag=True, help="Without Spore Mesh beside it  [env: SPORE_BORG_BENCH_PEER=0].")
@click.option(
    "--docs", is_flag=True, help="Write docs/reference/benchmarks.md (absorb: conversions.md) as well."
)
@click.option("--models", metavar="NAME,…", help="absorb: these models only.")
@click.option("--steps", metavar="T,…", help="absorb: these numbers of time steps  [default: 4,5,7,8,16,32].")
def command(
    frame: cli.Frame, names: tuple[str, ...], no_peer: bool, docs: bool, models: str | None, steps: str | None
) -> None:
    """Measure speed, traffic and the cost of verification, with noise. Takes about ten minutes.

    NAME is one of cli_help, records, ingest, spread, replay, live, sync, pages, merge, infer; without any, all of them.
    `absorb`, alone, converts real models out of packages and tells fidelity, sparsity and speed; a quarter of an hour.
    Needs a checkout of the source. For comparison Spore Mesh is installed into .venv-peer there. Exit code 1: a
    measurement failed.
    """
    absorb = "absorb" in names
    if (absorb and len(names) > 1) or (not absorb and (models or steps)):
        raise UsageError(detail="--models and --steps belong to `borg bench absorb`, which runs alone.")
    root = Path(__file__).resolve().parents[2]
    if not (root / "tests" / "bench" / "__main__.py").is_file():
        hint = "It is part of the source, not of the package: clone that, and run `make bench`."
        raise NotFound(what="benchmark", name="tests/bench", hint=hint)
    flags = [("--no-peer", no_peer), ("--docs", docs), ("--json", frame.json)]
    arguments = [*names, *(flag for flag, given in flags if given)]
    for option, value in (("--models", models), ("--steps", steps)):
        arguments += [option, value] if value else []
    if subprocess.run([sys.executable, "-m", "tests.bench", *arguments], cwd=root, check=False).returncode:
        cli.answer_is_no()
