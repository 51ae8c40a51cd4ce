"""A menu over grandmaster_train.py: asks mode, data and name, prints the command it stands for, and runs it.

    python run_training.py
    printf '1\\n\\n\\n' | python run_training.py        # works through a pipe too: an empty line takes the default
"""
import shlex
import sys

from grandmaster_train import BAD_INPUT, DONE, INTERRUPTED, main

MODES = (
    ("quick_test", "one backbone, one fold: an honest score and a submission soon"),
    ("full_training", "seven backbones, five folds, blended"),
    ("competition_ready", "the same, and a second round taught by the first"),
    ("debug", "check this machine and the data in a minute; trains nothing"),
)


def ask(question, default=""):
    """One line of input without surrounding space; the default when it is empty."""
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    if not sys.stdin.isatty():
        print(line.strip())
    return line.strip() or default


def ask_mode():
    """The chosen mode's name; asks again after anything that is not on the list."""
    for number, (name, meaning) in enumerate(MODES, 1):
        print(f"  {number}  {name:<18} {meaning}")
    while True:
        answer = ask("mode, 1 to 4, or q to leave", "1")
        if answer.lower() in ("q", "quit", "exit"):
            return None
        if answer.isdigit() and 1 <= int(answer) <= len(MODES):
            return MODES[int(answer) - 1][0]
        if answer in dict(MODES):
            return answer
        print(f"the mode must be a number from 1 to {len(MODES)}, got {answer!r}")


def ask_argv():
    """The arguments of grandmaster_train.py that the answers stand for; None to leave."""
    mode = ask_mode()
    if mode is None:
        return None
    data_path = ask("contest folder (empty: the embedded contest)")
    name = ask("experiment name (empty: by mode and folder)")
    argv = ["--mode", mode]
    argv += ["--data_path", data_path] if data_path else []
    return argv + (["--experiment_name", name] if name else [])


def menu():
    """Ask, print the command, run it; returns the exit status."""
    try:
        argv = ask_argv()
    except EOFError:
        print("\nerror: the input ended before all questions were answered", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    if argv is None:
        return DONE
    print(f"\npython grandmaster_train.py {shlex.join(argv)}\n", flush=True)
    return main(argv)


if __name__ == "__main__":
    sys.exit(menu())
