"""The command line: runs a command, and turns whatever stops it into one sentence and an exit status."""
from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from . import commands, console, options

OUT_OF_MEMORY = "out of memory: use a smaller --size"
NO_MEMORY = ("without exception set", "without setting an exception", "failed to map segment")
"""What interpreter and loader say where memory ends while they load a library: no MemoryError."""


class Terminated(BaseException):
    """SIGTERM, as an exception, so that half-written files are removed as they are on Ctrl-C."""


def main(argv=None):
    """Run the command line; returns the exit status (0 done, 1 not solved, 2 bad input, 130 interrupted by Ctrl-C, 143
    by SIGTERM)."""
    parser = options.build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        import pmapde
        print(f"pmapde {pmapde.__version__}")
        return 0
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    arguments.line = shlex.join(["pmapde", *(sys.argv[1:] if argv is None else argv)])
    try:
        with _one_line_warnings(), _stoppable():
            commands.COMMANDS[arguments.command](arguments)
            sys.stdout.flush()
    except console.Failure as failure:
        return _complain(failure, failure.code)
    except BrokenPipeError:  # the reader, `head` for instance, has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError as error:  # of a list or a string it says nothing
        return _complain(str(error) or OUT_OF_MEMORY, 2)
    except (ValueError, TypeError, OSError) as error:
        return _complain(error, 2)
    except KeyboardInterrupt:
        return _complain("interrupted" + _way_on(arguments), 130)
    except Terminated:
        return _complain("terminated" + _way_on(arguments), 143)
    except Exception as error:
        if os.environ.get("PMAPDE_TRACEBACK"):
            raise
        if isinstance(error, (SystemError, ImportError)) and any(words in str(error) for words in NO_MEMORY):
            return _complain(OUT_OF_MEMORY, 2)
        return _complain(f"unexpected {type(error).__name__}: {error} (PMAPDE_TRACEBACK=1 shows where).", 1)
    return 0


def _way_on(arguments):
    """How to go on, if there is a checkpoint."""
    file = getattr(arguments, "checkpoint", None) or getattr(arguments, "file", None)
    return f"; `{shlex.join(['pmapde', 'resume', file])}` goes on." if file and Path(file).exists() else ""


def _complain(error, code):
    print(f"pmapde: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


@contextmanager
def _one_line_warnings():
    def show(message, *_, **__):
        print(f"pmapde: note: {message}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _stoppable():
    def stop(*_):
        raise Terminated
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: no handlers there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
