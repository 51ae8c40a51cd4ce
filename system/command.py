"""What all commands share: exit statuses, the argument parser, how errors are told."""
import argparse
import logging
import os
import sys
import traceback

from system.log import safe_streams, show
from system.machine import fault_of, signals_interrupt, usable_cores
from utils import RunError, UserError, printable

DONE = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
# in a run's folder until it ends: what was typed, for the menu
TYPED = ".command.json"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of ending the process."""

    def error(self, message):
        raise UserError(f"{message}; see --help")


def run_command(command, argv=None, goes_on="run the same command again to continue"):
    """Call command(argv) and return its exit status, or that of the error that ended it.

    A user's mistake and a fault of the machine are one sentence on standard error. A traceback
    means a mistake of ours.
    """
    import torch  # here, because the menu starts without it

    if argv is None:
        read_names_as_utf8()
        argv = sys.argv[1:]
    logging.getLogger("timm").setLevel(logging.ERROR)
    # torch ignores a container's quota
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    say_any_text()
    with safe_streams():
        return status_of(command, argv, goes_on)


def read_names_as_utf8():
    """Start this command again in Python's UTF-8 mode where names of files are read as ASCII.

    That is so in the C locale with PYTHONUTF8=0 or without coercion; names in UTF-8 then look
    damaged.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    again = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, again, {**os.environ, "PYTHONUTF8": "1"})


def status_of(command, argv, goes_on):
    """`run_command` once the process is set up."""
    try:
        with signals_interrupt():
            return command(argv)
    except UserError as error:
        first, *others = error.args or ("",)
        show(f"error: {first}", to=sys.stderr)
        for sentence in others:
            show(sentence, to=sys.stderr)
        return BAD_INPUT
    except RunError as error:
        show(f"the run failed: {error}", to=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        show(f"interrupted: {goes_on}", above="\n", to=sys.stderr)
        return INTERRUPTED
    except Exception as error:      # all that is left: the machine's faults and our mistakes
        if fault := fault_of(error):
            show(f"the run failed: {fault}", to=sys.stderr)
            return FAILED
        show_traceback(error)
        show("the run failed by a mistake of ours: please report the lines above; "
             "the same command continues the run", to=sys.stderr)
        return FAILED


def show_traceback(error):
    """Print the traceback of an error and of what caused it, whatever names their texts hold."""
    text = "".join(traceback.format_exception(error))
    while error:
        text = text.replace(str(error), printable(error))
        error = error.__cause__ or error.__context__
    for line in text.rstrip().split("\n"):
        show(line, to=sys.stderr)


def say_any_text():
    """Print characters that the terminal cannot encode as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
