#!/usr/bin/env python3
"""A menu for grandmaster_train.py: asks for mode, data and name, then prints and runs the command.

    python run_training.py
    printf '1\\n\\n\\n' | python run_training.py     # through a pipe; an empty line is the default

In Korean if LANG begins with ko, or after `l` in the menu. The time a mode takes is read from the
results of finished runs.
"""
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import webbrowser
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from system import installed  # noqa: F401  (first: it says which packages are missing)

# isort: split
from config import BASE, PRESETS
from system.command import BAD_INPUT, DONE, INTERRUPTED, TYPED, say_any_text
from system.log import duration, safe_streams, show
from system.privacy import CUT
from utils import read_json

MOST_RECENT = 9          # experiments that are listed
TRAIN = Path(__file__).resolve().parent / "grandmaster_train.py"
PREDICT = TRAIN.with_name("predict.py")
FIRST_LOOK = ("--set", "model.frozen=auto", "model.backbones=")
TEXTS = {
    "en": {
        "quick_test": "one backbone, one fold: an honest score and a submission soon",
        "full_training": "seven backbones, five folds, blended",
        "competition_ready": "the same, plus a second round taught by the first",
        "debug": "check this machine and your data in a minute; trains nothing",
        "s": "show me: trains on the embedded contest, for about four minutes",
        "u": "what is understood of your folder, in seconds, with pictures of each class",
        "b": "b: back",
        "units": (),
        "last": "last run here: {fits} fit(s) in {time} ({name})",
        "f": "first look: a score and a submission in a minute, by pretrained weights; trains "
        "nothing",
        "d": "how long a mode would take on your data: shows the plan, trains nothing",
        "r": "recent experiments: continue one, or see its report",
        "a": "all runs side by side: scores, and what each changed",
        "p": "predict new images with a finished run",
        "l": "한국어",
        "q": "quit",
        "ask_mode": "mode (1 to 4) or a letter",
        "bad_mode": "the mode must be a number from 1 to {n}, got {answer!r}",
        "ask_plan": "mode (1 to 3)",
        "ask_data": "contest folder (empty: the embedded contest)",
        "ask_folder": "contest folder",
        "ask_name": "experiment name (empty: from mode and folder)",
        "ask_more": "other flags, such as --weights_dir DIR --time_budget HOURS (empty: none)",
        "bad_more": "the flags must be words or quoted text, got {answer!r}",
        "none": "no experiments in {folder} yet",
        "ask_run": "number of the experiment (empty: back)",
        "bad_run": "there is no experiment {answer!r}",
        "page": "report: {path}",
        "no_page": "it has no report yet",
        "done": "finished, {metric} expected {score:.3f}",
        "begun": "not finished",
        "ask_go_on": "continue it? y or n",
        "ask_images": "image file or folder (empty: back)",
        "ended": "error: the input ended before all questions were answered",
        "interrupted": "interrupted",
        "no_command": "its start command is unknown: start it again with the same mode, folder and "
        "name",
    },
    "ko": {
        "quick_test": "백본 1개, 폴드 1개: 믿을 수 있는 점수와 제출 파일을 빠르게",
        "full_training": "백본 7개, 폴드 5개, 블렌딩",
        "competition_ready": "위와 같고, 1라운드가 가르치는 2라운드를 더함",
        "debug": "이 컴퓨터와 내 데이터를 1분 안에 점검, 학습하지 않음",
        "s": "보여 주기: 내장 대회로 약 4분 동안 학습",
        "u": "내 폴더를 어떻게 이해하는지 몇 초 만에, 클래스마다 그림과 함께",
        "b": "b: 뒤로",
        "units": ((" h ", "시간 "), (" min", "분"), (" s", "초")),
        "last": "여기서 최근 실행: 학습 {fits}개에 {time} ({name})",
        "f": "첫 인상: 사전학습 가중치만으로 1분 안에 점수와 제출 파일, 학습하지 않음",
        "d": "내 데이터에서 모드별로 걸릴 시간: 계획만 보고 학습하지 않음",
        "r": "최근 실험: 이어서 실행하거나 결과 보고서 보기",
        "a": "모든 실험을 나란히 보기: 점수와 바뀐 설정",
        "p": "끝난 실험으로 새 이미지 예측",
        "l": "English",
        "q": "종료",
        "ask_mode": "모드 번호(1~4) 또는 글자",
        "bad_mode": "모드는 1부터 {n}까지의 번호여야 합니다. 입력: {answer!r}",
        "ask_plan": "모드 번호(1~3)",
        "ask_data": "대회 폴더 (빈칸: 내장 대회)",
        "ask_folder": "대회 폴더",
        "ask_name": "실험 이름 (빈칸: 모드와 폴더 이름으로)",
        "ask_more": "다른 옵션, 예: --weights_dir DIR --time_budget HOURS (빈칸: 없음)",
        "bad_more": "옵션은 단어나 따옴표로 묶은 글이어야 합니다. 입력: {answer!r}",
        "none": "{folder}에 아직 실험이 없습니다",
        "ask_run": "실험 번호 (빈칸: 뒤로)",
        "bad_run": "{answer!r}번 실험이 없습니다",
        "page": "결과 보고서: {path}",
        "no_page": "아직 결과 보고서가 없습니다",
        "done": "완료, {metric} 예상 {score:.3f}",
        "begun": "끝나지 않음",
        "ask_go_on": "이어서 실행할까요? y 또는 n",
        "ask_images": "이미지 파일 또는 폴더 (빈칸: 뒤로)",
        "ended": "오류: 질문이 끝나기 전에 입력이 끝났습니다",
        "interrupted": "중단되었습니다",
        "no_command": "시작 명령을 알 수 없습니다. 같은 모드, 폴더, 이름으로 다시 시작하십시오",
    },
}


def language():
    """ko or en, by the environment's locale."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        locale = os.environ.get(name)
        if locale:
            return "ko" if locale.lower().startswith("ko") else "en"
    return "en"


# ---------------------------------------------------------------- experiments on disk

class Experiment(NamedTuple):
    """A run's folder, the time of its last event, and final_results.json's content.

    `final` is None until the run has finished since its last start.
    """

    folder: Path
    time: float
    final: dict | None


def experiments(results_dir):
    """The most recent Experiments of a folder, the latest first."""
    logs = Path(results_dir).glob("*/events.jsonl")
    recent = sorted(logs, key=lambda log: -log.stat().st_mtime)[:MOST_RECENT]
    return [Experiment(log.parent, log.stat().st_mtime, read_final(log.parent)) for log in recent]


def read_final(folder):
    """final_results.json's content.

    None if it is missing, cut off, of another kind, or older than the run's last start.
    """
    path = folder / "final_results.json"
    try:
        final = read_json(path)
        started = last_start(folder).get("time")
        if started and path.stat().st_mtime < datetime.fromisoformat(started).timestamp():
            return None
    except (OSError, ValueError):      # the menu lists the other runs all the same
        return None
    if not {"mode", "metric", "score", "n_fits"} <= set(final):
        return None
    return final


def last_start(folder):
    """The event of the run's last start, {} if its log holds none."""
    with open(folder / "events.jsonl", encoding="utf-8") as f:
        lines = f.readlines()
    starts = [line for line in lines if '"event": "start"' in line]
    for line in reversed(starts):
        event = event_of(line)
        if event:
            return event
    return {}


def event_of(line):
    """The event of a line of the log, None if a killed process left half of it."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def started_by(folder):
    """The arguments of the last start of a run that has not ended; None if they are unknown.

    The log of a run of an older version has them too.
    """
    try:
        command = read_json(folder / TYPED)["command"]
    except (OSError, ValueError, KeyError):      # the log has it too
        command = last_start(folder).get("command", "")
    return None if f"{CUT}/" in command or not command else shlex.split(command)[2:]


# ---------------------------------------------------------------- questions

class Back(Exception):
    """The answer was b: back to the menu."""


def ask(question, default="", back=""):
    """One line of input without surrounding space; the default if it is empty.

    back: what is said of the answer b, which then raises Back.
    """
    hint = f" [{default}]" if default else ""
    way = f" ({back})" if back else ""
    show(f"{question}{way}{hint}: ", end="")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    if not sys.stdin.isatty():
        show(line.strip())
    if back and line.strip().lower() == "b":
        raise Back
    return line.strip() or default


def ask_path(question, back=""):
    """A path as a shell would read it: ~ is the home folder, and a dropped file is in quotes."""
    answer = ask(question, back=back)
    if len(answer) > 1 and answer[0] in "'\"" and answer[-1] == answer[0]:
        answer = answer[1:-1]
    return os.path.expanduser(answer)


def ask_choice(question, allowed, say, back=""):
    """One of the allowed answers, a sequence of texts. Asks again after any other."""
    n_modes = sum(answer.isdigit() for answer in allowed)
    while True:
        answer = ask(question, "1", back).lower()
        if answer in allowed:
            return answer
        show(say["bad_mode"].format(n=n_modes, answer=answer))


def ask_run(recent, say, results_dir):
    """Show a list of Experiments and return the chosen one, or None."""
    if not recent:
        show(say["none"].format(folder=results_dir))
        return None

    width = max(len(experiment.folder.name) for experiment in recent)
    for number, experiment in enumerate(recent, 1):
        name = experiment.folder.name
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(experiment.time))
        show(f"  {number}  {name:<{width}}  {when}  {state_of(experiment, say)}")

    answer = ask(say["ask_run"])
    if answer.isdigit() and 1 <= int(answer) <= len(recent):
        return recent[int(answer) - 1]
    if answer:
        show(say["bad_run"].format(answer=answer))
    return None


def state_of(experiment, say):
    """An experiment's score, or that it has not finished."""
    final = experiment.final
    if not final:
        return say["begun"]
    return say["done"].format(metric=final["metric"], score=final["score"]["expected"])


def ask_argv(mode, say):
    """The arguments of grandmaster_train.py that the answers stand for."""
    data_path = ask_path(say["ask_data"], say["b"])
    name = ask(say["ask_name"], back=say["b"])
    argv = ["--mode", mode]
    if data_path:
        argv += ["--data_path", data_path]
    if name:
        argv += ["--experiment_name", name]
    return argv + ask_more(say)


def ask_more(say):
    """Further words of the command line, none at the end of the input.

    Asks again if a quote is not closed.
    """
    while True:
        try:
            answer = ask(say["ask_more"], back=say["b"])
            return [os.path.expanduser(word) for word in shlex.split(answer)]
        except EOFError:
            show()
            return []
        except ValueError:
            show(say["bad_more"].format(answer=answer))


# ---------------------------------------------------------------- what can be chosen

def command(script, argv):
    """Print and run a command of this folder; returns its exit status."""
    show(f"python {script.name} {shlex.join(argv)}", above="\n")
    show()
    running = subprocess.Popen([sys.executable, str(script), *argv])
    # the command saves and says so: a terminal sends it Ctrl-C itself, a SIGTERM is passed on
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: running.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return running.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plan(say):
    """Show how long a mode would take on the person's own data; returns the exit status."""
    mode = mode_of(ask_choice(say["ask_plan"], ("1", "2", "3"), say, say["b"]))
    return command(TRAIN, [*ask_argv(mode, say), "--dry_run"])


def mode_of(answer):
    """The mode of a number in the menu, or of its name."""
    if answer.isdigit():
        return list(PRESETS)[int(answer) - 1]
    return answer


def resume(recent, say, results_dir):
    """Print the path of a run's report and continue the run if it has not finished.

    Returns the exit status, None to go back to the menu.
    """
    chosen = ask_run(recent, say, results_dir)
    if chosen is None:
        return None
    page = chosen.folder.resolve() / "report.html"
    if page.exists():
        show(say["page"].format(path=page))
    else:
        show(say["no_page"])
    if chosen.final or ask(say["ask_go_on"], "y", say["b"]).lower() != "y":
        return None

    argv = started_by(chosen.folder)
    if argv is None:
        show(say["no_command"])
        return None
    return command(TRAIN, argv)


def show_runs(say, results_dir):
    """Print the path of the page of all runs, and open it where there is a screen."""
    page = Path(results_dir).resolve() / "index.html"
    if not page.exists():
        show(say["none"].format(folder=results_dir))
        return
    show(say["page"].format(path=page))
    open_page(page)


def open_page(page):
    """Open a page where there is a screen."""
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY"):
        webbrowser.open(page.resolve().as_uri())


def predict(recent, say, results_dir):
    """Run predict.py on new images. Returns the exit status, None to go back to the menu."""
    finished = [experiment for experiment in recent if experiment.final]
    chosen = ask_run(finished, say, results_dir)
    if chosen is None:
        return None
    images = ask_path(say["ask_images"])
    if not images:
        return None
    return command(PREDICT, [str(chosen.folder), images])


FIRST = ("s", "u")      # listed before the modes


def understood(say, results_dir):
    """Show what is understood of a folder, and its page where there is a screen."""
    data_path = ask_path(say["ask_folder"], say["b"])
    if not data_path:
        raise Back
    page = Path(results_dir) / f"look_{Path(data_path).resolve().name}.html"
    status = command(TRAIN, ["--look", "--data_path", data_path, "--results_dir", str(results_dir)])
    if status == DONE and page.is_file():
        open_page(page)


def letters():
    """The menu's letters, without p if predict.py is missing."""
    if PREDICT.exists():
        return ("f", "d", "r", "a", "p", "l", "q")
    return ("f", "d", "r", "a", "l", "q")


def show_menu(recent, say):
    """Print the modes, each with what its last finished run took here, and the letters."""
    for letter in FIRST:
        show(f"  {letter}  {say[letter]}")
    for number, mode in enumerate(PRESETS, 1):
        show(f"  {number}  {mode:<18} {say[mode]}")
        for experiment in recent:
            if experiment.final and experiment.final["mode"] == mode:
                show(f"{'':<24}{cost_of(experiment, say)}")
                break
    for letter in letters():
        show(f"  {letter}  {say[letter]}")


def cost_of(experiment, say):
    """What a finished run took, in words."""
    words = time_words(cost_seconds(experiment), say)
    name = experiment.folder.name
    return say["last"].format(fits=experiment.final["n_fits"], time=words, name=name)


def time_words(seconds, say):
    """A duration with the units of a language."""
    text = duration(seconds)
    for unit, word in say["units"]:
        text = text.replace(unit, word)
    return text


def cost_seconds(experiment):
    """Seconds that a finished run took: of all its fits, if it was continued."""
    final = experiment.final
    in_fits = sum(row["seconds"] for row in final.get("sources", ()))
    return max(final.get("seconds", 0), in_fits)


def choose(tongue, results_dir):
    """Ask until something has run or the person quits; returns the exit status."""
    while True:
        say = TEXTS[tongue]
        recent = experiments(results_dir)
        show_menu(recent, say)
        allowed = ("1", "2", "3", "4", *FIRST, *letters(), *PRESETS, "quit", "exit")
        answer = ask_choice(say["ask_mode"], allowed, say)
        if answer in ("q", "quit", "exit"):
            return DONE
        status = None
        if answer == "l":
            tongue = "en" if tongue == "ko" else "ko"
        else:
            with contextlib.suppress(Back):
                status = done(answer, recent, say, results_dir)
        if status is not None:
            return status
        show()


def done(answer, recent, say, results_dir):
    """Do what an answer in the menu stands for. Returns the exit status, None to go back."""
    if answer == "s":
        return command(TRAIN, [])
    if answer == "u":
        return understood(say, results_dir)
    if answer == "f":
        return command(TRAIN, [*ask_argv("quick_test", say), *FIRST_LOOK])
    if answer == "d":
        return plan(say)
    if answer == "r":
        return resume(recent, say, results_dir)
    if answer == "a":
        return show_runs(say, results_dir)
    if answer == "p":
        return predict(recent, say, results_dir)
    return command(TRAIN, ask_argv(mode_of(answer), say))


def menu(results_dir=BASE.runtime.results_dir):
    """Ask, print the command, run it; returns the exit status."""
    say_any_text()
    with safe_streams():
        return answered_menu(language(), results_dir)


def answered_menu(tongue, results_dir):
    """`menu` once printing is safe."""
    say = TEXTS[tongue]
    try:
        return choose(tongue, results_dir)
    except EOFError:
        show(say["ended"], above="\n", to=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        show(say["interrupted"], above="\n", to=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(menu())
