"""What all commands share: exit statuses, the argument parser, how errors are told."""
import argparse
import logging
import os
import sys
import traceback
from typing import NamedTuple

from config import SWITCHES
from system.log import safe_streams, show
from system.machine import fault_of, signals_interrupt, usable_cores
from utils import RunError, UserError, json_text, printable

DONE = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
# in a run's folder until it ends: what was typed, for the menu
TYPED = ".command.json"
# what asks for one JSON object a line
JSON = "--json"
JSON_SETTING = "runtime.json="


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of ending the process."""

    def error(self, message):
        raise UserError(f"{message}; see --help")


def run_command(command, argv=None, goes_on="run the same command again to continue"):
    """Call command(argv) and return its exit status, or that of the error that ended it.

    A user's mistake and a fault of the machine are one sentence on standard error, and with --json
    a last line on standard output. A traceback means a mistake of ours.
    """
    if argv is None:
        read_names_as_utf8()
        argv = sys.argv[1:]
    set_up_packages()
    say_any_text()
    with safe_streams():
        return status_of(command, argv, goes_on)


def set_up_packages():
    """What a run needs of this process's packages."""
    import torch  # here, because the menu starts without it

    # torch's words on a compiler for a GPU that is not there
    for name in ("timm", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # torch ignores a container's quota
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


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
    except (Exception, KeyboardInterrupt) as error:      # each is told, ours with its traceback
        failure = failure_of(error, goes_on)
        if failure.is_ours:
            show_traceback(error)
        first, *others = failure.sentences
        show(failure.before + first, above="\n" * (failure.status == INTERRUPTED), to=sys.stderr)
        for sentence in others:
            show(sentence, to=sys.stderr)
        if asks_for_json(argv):
            show(json_text({"event": "error", "status": failure.status,
                            "sentences": failure.sentences}))
        return failure.status


def asks_for_json(argv):
    """Whether the last line is JSON, by the words themselves: it may tell a mistake in them."""
    if JSON in argv:
        return True
    words = [word.removeprefix("--set=") for word in argv]
    values = [word.removeprefix(JSON_SETTING) for word in words if word.startswith(JSON_SETTING)]
    return bool(values) and SWITCHES.get(values[-1].lower(), False)


class Failure(NamedTuple):
    """How a command ended. before: the words before its first sentence. is_ours: by a mistake of
    the program."""

    status: int
    before: str
    sentences: list[str]
    is_ours: bool = False


def failure_of(error, goes_on):
    """The Failure that an exception means."""
    if isinstance(error, UserError):
        return Failure(BAD_INPUT, "error: ", [str(text) for text in error.args] or [""])
    if isinstance(error, RunError):
        return Failure(FAILED, "the run failed: ", [str(error)])
    if isinstance(error, KeyboardInterrupt):
        return Failure(INTERRUPTED, "interrupted: ", [goes_on])
    if fault := fault_of(error):
        return Failure(FAILED, "the run failed: ", [fault])
    return Failure(FAILED, "the run failed by a mistake of ours: ",
                   ["please report the lines above; the same command continues the run"],
                   is_ours=True)


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
