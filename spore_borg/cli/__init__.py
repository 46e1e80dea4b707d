"""The command line: ``borg``, also installed as ``spore-borg``. One file per command, loaded when it is called.

Data goes to stdout, progress and warnings to stderr; ``--json`` on every command, errors too. Exit codes are those
of :mod:`spore_borg.errors`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from spore_borg.cli.frame import Frame, LazyGroup, dumps, json_option, quiet_stdout
from spore_borg.errors import EXIT_DONE, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, BorgError

COMMANDS = {
    "run": "Research: propose, run, publish and verify experiments.",
    "demo": "Show the mesh at work on this machine in a few minutes.",
    "status": "Where this node and its mesh stand.",
    "frontier": "The best accepted result per task and hardware class.",
    "task": "List the mesh's tasks, look at one, or make one of your own text.",
    "absorb": "Turn a model into a spiking shard of the mesh's state.",
    "state": "The absorbed models that this mesh answers with.",
    "merge": "Make one model of absorbed models of one lineage.",
    "retract": "Take an own absorption out of the state.",
    "plot": "Draw the frontier as a picture.",
    "ask": "What your documents say about a question, found by absorbed models.",
    "ingest": "Take documents into the library that `borg ask` looks in.",
    "embed": "Vectors of texts or files, from the absorbed models.",
    "classify": "What texts, pictures, sounds or files are.",
    "complete": "Go on with a text, or fill in its [MASK]s.",
    "log": "The newest records.",
    "show": "One record: what it says and where it stands.",
    "diff": "What one experiment changed in the recipe.",
    "queue": "What waits for verification, and for whom.",
    "reputation": "Who earned how much trust, and by what.",
    "failures": "What crashed runs have in common, and what fixed it.",
    "peers": "The peers that this node is connected to.",
    "connect": "Connect the running node to a peer.",
    "ticket": "Print an invitation into this mesh.",
    "verify": "Check a fetched result offline.",
    "export": "Write tables, or all experiments as runs of another tool.",
    "explorer": "Serve the explorer's pages without a node.",
    "init": "Create an identity and a mesh, or join one.",
    "config": "Read and change settings.",
    "doctor": "Check this machine; say how to fix what is wrong.",
    "check": "Check the record log and the blobs for damage.",
    "rebuild": "Derive all views from the records again.",
    "bench": "Measure speed, traffic and the cost of verification, with noise.",
    "version": "The version of spore_borg and of what it builds on.",
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`borg run` with nothing configured makes an identity and a mesh of its own and starts.\n\n"
    'Tab completion, in bash: eval "$(_BORG_COMPLETE=bash_source borg)" (or zsh_source, fish_source).',
)
@click.option(
    "--home", metavar="DIR", envvar="SPORE_BORG_HOME", help="The node's directory  [env: SPORE_BORG_HOME]."
)
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@json_option
@click.pass_context
def cli(context: click.Context, home: str | None, verbose: bool) -> None:
    """A verifiable research mesh: nodes improve models together, and nobody has to be believed."""
    frame = context.ensure_object(Frame)
    frame.home_given = home
    frame.verbose = verbose


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(call(list(sys.argv[1:] if arguments is None else arguments)))


def call(arguments: list[str]) -> int:
    """Run one command line; every way in which it can end becomes an exit code.

    Args:
        arguments: without the program's name.
    """
    frame = Frame(json="--json" in arguments)  # known before parsing, so that a usage error is JSON as well
    stdout = sys.stdout
    try:
        result = cli.main(arguments, prog_name="borg", standalone_mode=False, obj=frame)
        sys.stdout.flush()
    except BrokenPipeError:
        quiet_stdout()
        return EXIT_DONE  # the reader (`head`, a pager) has seen enough
    except SystemExit:
        if sys.stdout is stdout:
            raise
        sys.stdout = stdout  # click met the closed pipe first, while it printed help, and replaced the stream
        quiet_stdout()
        return EXIT_DONE
    except (KeyboardInterrupt, click.Abort):
        return _fail(frame, EXIT_INTERRUPTED, "Interrupted", "Interrupted.")
    except BorgError as error:
        return _fail(frame, error.exit_code, type(error).__name__, str(error))
    except click.UsageError as error:
        hint = f"\n{error.ctx.get_usage()}" if error.ctx is not None and not frame.json else ""
        return _fail(frame, EXIT_USAGE, "UsageError", error.format_message() + hint)
    except click.ClickException as error:
        return _fail(frame, EXIT_ERROR, type(error).__name__, error.format_message())
    except OSError as error:
        return _fail(frame, EXIT_ERROR, "SystemError", f"The system refused: {error}")
    except Exception as error:  # the outermost frame: a defect of ours, told as one, with its traceback
        _print_traceback()
        message = f"This is a defect of spore_borg ({type(error).__name__}: {error}). Please report it."
        return _fail(Frame(json=frame.json), EXIT_ERROR, "Defect", message)
    return result if isinstance(result, int) else EXIT_DONE


def _fail(frame: Frame, code: int, kind: str, message: str) -> int:
    """Say an error on stderr, or as JSON on stdout, and give its exit code back."""
    if frame.verbose and sys.exc_info()[0] is not None:
        _print_traceback()
    try:
        if frame.json:
            click.echo(dumps({"error": {"code": code, "kind": kind, "message": message}}))
        else:
            click.echo(f"borg: {message}", err=True)
    except BrokenPipeError:
        quiet_stdout()
    return code


def _print_traceback() -> None:
    """The traceback of the error being handled, on stderr."""
    import traceback  # costs as much as all of ours together, and is rarely needed

    traceback.print_exc()
