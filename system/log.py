"""What a run tells the person who waits: streams, events, clocks, bars."""
import contextlib
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from utils import json_text, plain, printable

# ---------------------------------------------------------------- standard output and error

class SafeStream:
    """A text stream that turns itself off at its first failed write: nobody reads it any more.

    Its descriptor then leads to the null device, so Python's own flush at exit cannot fail either.
    stream: None if the process has none.
    """

    def __init__(self, stream):
        self.stream = stream
        self.is_off = stream is None

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self.attempt("write", text)
        return len(text)

    def flush(self):
        self.attempt("flush")

    def isatty(self):
        return bool(self.attempt("isatty"))

    def attempt(self, method, *args):
        """Call a method of the stream; None once it is off."""
        if self.is_off:
            return None
        try:
            return getattr(self.stream, method)(*args)
        except (OSError, ValueError):    # ValueError: the stream is closed
            self.turn_off()
            return None

    def turn_off(self):
        self.is_off = True
        # a closed stream has no descriptor; nor has one in memory
        with contextlib.suppress(OSError, ValueError, AttributeError):
            lead_to_null(self.stream.fileno())


@contextlib.contextmanager
def safe_streams():
    """Print through SafeStreams inside the block, so that printing never ends a run."""
    fill_missing_descriptors()
    before = sys.stdout, sys.stderr
    streams = SafeStream(sys.stdout), SafeStream(sys.stderr)
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def fill_missing_descriptors():
    """Open the null device wherever a standard descriptor is closed (`>&-`).

    The next file opened would get its number, and with it what libraries write to 1 and 2.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:      # it is closed
            lead_to_null(number)


def lead_to_null(number):
    """Make a descriptor lead to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


def show(text="", above="", to=None, end="\n"):
    """Print one line, whatever names are in it. above: before it. to: a stream, None for standard
    output."""
    print(above + printable(text), file=to, end=end, flush=True)


# ---------------------------------------------------------------- the event log

class EventLog:
    """Appends events to events.jsonl, one JSON object a line. `say` also prints a sentence.

    events: the kinds of events whose sentences are printed, None for all.
    also(event, values): called with each event, for trackers. short(value): the value as it is
    kept, which the terminal shows whole. as_json: print every event as JSON in place of sentences.
    """

    def __init__(self, path, echo=True, events=None, also=lambda event, values: None,
                 short=lambda value: value, as_json=False):
        self.path = Path(path)
        self.echo = echo
        self.events = events
        self.also = also
        self.short = short
        self.as_json = as_json
        self.warnings = []
        self.end_torn_line()

    def end_torn_line(self):
        """Begin a new line if a killed process has left half of one."""
        if self.path.is_file() and self.path.stat().st_size:
            with open(self.path, "rb+") as f:
                f.seek(-1, os.SEEK_END)
                if f.read() != b"\n":
                    f.write(b"\n")

    def record(self, event, **values):
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = plain(values)
        if self.as_json:
            show(json_text({"time": now, "event": event, **values}))
        values = self.short(values)
        line = {"time": now, "event": event, **values}
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as f:
            f.write(json_text(line) + "\n")
        self.also(event, values)

    def say(self, text, event="note", above="", **values):
        """above: what to print before the sentence, such as an empty line."""
        self.record(event, text=text, **values)
        if self.echo and not self.as_json and (self.events is None or event in self.events):
            tqdm.write(above + printable(text), file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text):
        """Say and keep a warning, the first time only."""
        kept = self.short(text)
        if kept not in self.warnings:
            self.warnings.append(kept)
            self.say(f"warning: {text}", event="warning")


# ---------------------------------------------------------------- clocks and bars

class Timer:
    """`with Timer() as t: ...` then `t.seconds`."""

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.stop = time.perf_counter()

    @property
    def seconds(self):
        return getattr(self, "stop", time.perf_counter()) - self.start


def duration(seconds):
    """'45 s', '12 min', '3 h 05 min'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def progress(iterable=None, desc="", **kwargs):
    """A tqdm bar on standard error; none when bars are hidden or in a log, which stays readable."""
    # tqdm reads None as: only in a terminal
    return tqdm(iterable, desc=printable(desc), disable=Bars.hidden or None, leave=False,
                dynamic_ncols=True, **kwargs)


class Bars:
    """Whether this process hides its bars. They share standard error, so the state is global."""

    hidden = False


@contextlib.contextmanager
def no_bars(hidden=True):
    """Hide all bars inside the block."""
    before = Bars.hidden
    Bars.hidden = hidden
    try:
        yield
    finally:
        Bars.hidden = before


# of tqdm: how much is done, and how long the rest takes
SHARE_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left"


class Overall:
    """The bar below all others: how much is done, and the time left at the pace so far."""

    def __init__(self, description):
        self.bar = progress(
            total=0,
            desc=description,
            position=1,
            smoothing=0,
            bar_format=SHARE_BAR,
        )

    @property
    def is_hidden(self):
        return self.bar.disable

    def plan(self, left):
        """Set how much is left, in the unit of `advance`."""
        self.bar.total = self.bar.n + left
        self.bar.refresh()

    def advance(self, done):
        self.bar.update(done)

    def close(self):
        self.bar.close()
