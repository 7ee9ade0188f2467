"""The command `expunge`: its subcommands, its exit codes, and the handling of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from expunge.cli import (
    audit,
    check,
    doctor,
    evaluate,
    import_openunlearning,
    init,
    ls,
    plan,
    push,
    quickstart,
    report,
    requests,
    run,
    schema,
    score_log,
    show,
    show_labels,
    sweep,
    verify,
    view,
)
from expunge.cli.errors import explain
from expunge.cli.examples import epilog
from expunge.cli.logging import quiet
from expunge.console import console
from expunge.errors import printable

app = typer.Typer(
    name="expunge",
    help="Remove chosen knowledge from a language model, measure how much is gone, and report the cost.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "quickstart": quickstart.quickstart,
    "run": run.run,
    "sweep": sweep.sweep,
    "check": check.check,
    "plan": plan.plan,
    "init": init.init,
    "ls": ls.ls,
    "show": show.show,
    "show-labels": show_labels.show_labels,
    "evaluate": evaluate.evaluate,
    "audit": audit.audit,
    "score-log": score_log.score_log,
    "import": import_openunlearning.import_openunlearning,
    "report": report.report,
    "view": view.view,
    "push": push.push,
    "verify": verify.verify,
    "schema": schema.schema,
    "doctor": doctor.doctor,
}
for _name, _function in _COMMANDS.items():
    app.command(_name, epilog=epilog(_name))(_function)
app.add_typer(requests.app, name="requests", epilog=epilog("requests"))


def _version(wanted: bool) -> None:
    if wanted:
        import expunge

        typer.echo(expunge.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings of other libraries.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Remove chosen knowledge from a language model, measure how much is gone, and report the cost."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Words of the command line; None for those of this process.

    Returns:
        0: success. 1: a bug. 2: an error that the user can correct. 130: stopped by the user. 141: closed pipe.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if not debug:
        quiet()
    # --debug is a global option; accept it at any position.
    words = [*(["--debug"] if debug else []), *(word for word in words if word != "--debug")]
    try:
        app(words, prog_name="expunge")
    except SystemExit as error:
        return _flush(error.code if isinstance(error.code, int) else int(bool(error.code)))
    except BrokenPipeError:
        return _flush(141)
    except BaseException as error:
        if debug and isinstance(error, Exception):
            console.print_exception()
        failure = explain(error)
        if failure.title:
            console.print(failure.title, style="bold red", end=" ", markup=False)
        console.print(printable(failure.text), markup=False)
        return failure.code
    return _flush(0)


def _flush(code: int) -> int:
    """Flush standard output and return the exit code: 141, without a message, if the pipe is closed (`| head`)."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


if __name__ == "__main__":
    sys.exit(main())
