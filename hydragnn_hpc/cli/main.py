"""The program: its commands, and the reporting of errors as one line and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import hydragnn_hpc
from hydragnn_hpc import streams
from hydragnn_hpc.cli import archive, data, doctor, exchange, init, predict, results, run, select, site, submit
from hydragnn_hpc.cli.command import App
from hydragnn_hpc.dataset.imports import provide_home
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.logs import print_line

app = App(
    name="hydragnn-hpc",
    help="Train ensembles of multi-task graph neural networks on supercomputers: one model per GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data.app, name="data")
app.add_typer(site.app, name="site")
app.add_typer(exchange.app, name="import")
app.command("init", epilog=init.EPILOG)(init.init)
app.command("run", epilog=run.EPILOG)(run.run)
app.command("doctor", epilog=doctor.EPILOG)(doctor.doctor)
app.command(
    "submit", epilog="Example: hydragnn-hpc submit jobs/campaigns/paper.yaml runs/paper --site perlmutter --dry-run"
)(submit.submit)
app.command("status", epilog="Example: hydragnn-hpc status runs/paper --watch")(results.status)
app.command("report", epilog="Example: hydragnn-hpc report runs/paper")(results.report)
app.command("compare", epilog="Example: hydragnn-hpc compare runs/paper runs/best")(results.compare)
app.command("predict", epilog=predict.EPILOG)(predict.predict)
app.command("select", epilog=select.EPILOG)(select.select)
app.command("archive", epilog=archive.EPILOG)(archive.archive)
app.command("export", epilog=exchange.EXPORT_EPILOG)(exchange.export)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"hydragnn-hpc {hydragnn_hpc.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


_PATH_ERRORS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE)
"""Errors that any use of a path can raise, even the question whether it exists."""
_REMEDY = "check the path, its permissions and its file system"

# The base class of errors in options; typer exports only its subclass BadParameter.
_CommandLineError: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _report_usage(error: Any) -> None:
    message = error.format_message()
    if not message.strip():  # a group called without a command: it has shown its help
        return
    where = error.ctx.command_path if getattr(error, "ctx", None) else "hydragnn-hpc"
    print_line(f"hydragnn-hpc: error: {message.rstrip('.')}; see '{where} --help'")


def _check_folder() -> None:
    """Refuse to work in a folder that has been removed: libraries would fail with misleading errors."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current folder has been removed; change to another: cd DIR") from error


def _leave_garbage() -> None:
    """Spare Python, at its end, several searches of all objects for garbage: a fifth of a command's time."""
    if "triton" not in sys.modules:  # it would report what is left as leaked
        gc.freeze()


def main() -> None:
    """Run the command line; exit with one of :class:`~hydragnn_hpc.errors.ExitCode`."""
    atexit.register(_leave_garbage)
    streams.prepare()
    provide_home()
    debug = "--debug" in sys.argv[1:]
    # Allowed anywhere on the line: users add it after an error.
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        _check_folder()
        code = app(args=arguments, standalone_mode=False) or 0
        sys.stdout.flush()
    except _CommandLineError as error:
        _report_usage(error)
        code = ExitCode.USAGE
    except UserError as error:
        if debug:
            raise
        if error.exit_code is not ExitCode.READER_GONE:
            print_line(f"hydragnn-hpc: error: {error}")
        code = error.exit_code
    except OSError as error:
        if debug or error.filename is None or error.errno not in _PATH_ERRORS:
            raise
        print_line(f"hydragnn-hpc: error: cannot access {error.filename}: {error.strerror}; {_REMEDY}")
        code = ExitCode.USAGE
    except KeyboardInterrupt:
        print_line("hydragnn-hpc: interrupted; the same command continues where it stopped")
        code = ExitCode.INTERRUPTED
    with contextlib.suppress(UserError):  # the first error is the one to report
        sys.stdout.flush()
    sys.exit(code)
