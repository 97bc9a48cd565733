"""The command line: each verb parses, calls one function of the library, and prints.

`main` is the one place where errors become lines and exit statuses:

    0 succeeded · 1 the run failed · 2 misuse · 3 not found · 4 owned by another, or in conflict
    5 store or machine unavailable or unfit · 70 our own bug · 130 Ctrl-C · 143 SIGTERM

Each error is one line on stderr, `error: what is wrong (where). What to do.` A traceback of ours is shown with `--debug`
only. Verbs are modules of this package, loaded when they are used, so that `--help` costs click and nothing else.

Imported by nobody but the entry script and `python -m dagengine`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.cli.app import Invocation

PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell reports of a command whose reader went away
OUT_OF_ORDER = 5
OUR_BUG = 70
INTERRUPTED = 130

COMPLETE = "_DAGENGINE_COMPLETE"
"""The variable by which a shell's completion script asks for words."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    # Of a process that was started with closed streams they are None. What is said goes nowhere then.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 — open to the end of the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 — the same
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that can't show a character must not end the command
    from dagengine.cli.app import Invocation

    invocation = Invocation()
    try:
        if COMPLETE in os.environ:
            return _complete_for_shell(os.environ[COMPLETE])
        status = _guarded(argv, invocation)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        return _quiet_exit()
    except (ValueError, OSError):
        return OUT_OF_ORDER  # stdout or stderr is closed: nobody is left to tell


def _complete_for_shell(instruction: str) -> int:
    from click.shell_completion import shell_complete

    from dagengine.cli.app import Invocation, app

    return shell_complete(app, {"obj": Invocation()}, "dagengine", COMPLETE, instruction)


def _quiet_exit() -> int:
    # What is left in the buffers can't be written, and the interpreter would complain about it at its end.
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)
    return PIPE_CLOSED


def _guarded(argv: Sequence[str] | None, invocation: Invocation) -> int:
    import click
    from click.exceptions import Exit

    from dagengine.cli.app import app
    from dagengine.errors import DagengineError

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # Not `app.main`: it has ideas of its own about closed pipes and Ctrl-C.
        with app.make_context("dagengine", words, obj=invocation) as context:
            status = app.invoke(context)
    except Exit as end:
        return end.exit_code
    except BrokenPipeError:
        raise
    except click.UsageError as error:
        # A verb of verbs alone: the text is the help. (A class of Click 8.2; 8.1 prints it itself.)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.message, file=sys.stderr)
            return 2
        return _complain(_usage(error), 2, invocation.debug)
    except click.ClickException as error:
        return _complain(error.format_message(), 2, invocation.debug)
    except (click.Abort, KeyboardInterrupt, EOFError):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except DagengineError as error:
        return _complain(str(error), error.exit_status, invocation.debug)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        reason = error.strerror or str(error) or type(error).__name__
        return _complain(f"{reason}{where}. `dagengine doctor` looks at this machine.", OUT_OF_ORDER, invocation.debug)
    except MemoryError:
        return _complain("out of memory. Free some, or give the workers less to do.", OUT_OF_ORDER, invocation.debug)
    except Exception as error:
        if isinstance(error, UnicodeEncodeError) and (strange := [word for word in words if not _is_text(word)]):
            return _complain(f"{strange[0]!r} is not text in UTF-8. Type it otherwise.", 2, invocation.debug)
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        advice = "Please report it with what you typed" + ("." if invocation.debug else "; run again with --debug.")
        return _complain(f"this is a bug of dagengine: {text}. {advice}", OUR_BUG, invocation.debug)
    return status if isinstance(status, int) else 0


def _is_text(word: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _usage(error: object) -> str:
    import click

    assert isinstance(error, click.UsageError)
    message = " ".join(error.format_message().split())
    if error.ctx is None:
        return message
    message = message if message.endswith((".", "?", "!")) else f"{message}."
    return f"{message} `{error.ctx.command_path} --help` shows how."


def _complain(message: str, status: int, debug: bool) -> int:
    from dagengine.cli.terminal import clean, paint

    if debug:
        import traceback

        traceback.print_exc(file=sys.stderr)
    print(paint("error:", "red", sys.stderr), clean(message, 2000), file=sys.stderr)
    return status
