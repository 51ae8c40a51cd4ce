"""A menu over grandmaster_train.py: asks mode, data and name, prints the command it stands for, and
runs it.

    python run_training.py
    printf '1\\n\\n\\n' | python run_training.py        # works through a pipe too: an empty line takes the default

In Korean where LANG begins with ko, or by `l` in the menu. What a mode costs is read from the
results of runs that ended.
"""
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from config import BASE, PRESETS
from system.command import BAD_INPUT, DONE, INTERRUPTED, say_any_text
from system.log import duration
from utils import read_json

MOST_RECENT = 9
TRAIN = Path(__file__).resolve().parent / "grandmaster_train.py"
PREDICT = TRAIN.with_name("predict.py")
TEXTS = {
    "en": {
        "quick_test": "one backbone, one fold: an honest score and a submission soon",
        "full_training": "seven backbones, five folds, blended",
        "competition_ready": "the same, and a second round taught by the first",
        "debug": "check this machine and the data in a minute; trains nothing",
        "units": (),
        "last": "last here: {fits} fit(s) in {time} ({name})",
        "d": "what a mode would cost on your data: its plan, nothing trained",
        "r": "recent experiments: go on with one, or see its page",
        "p": "predict new images with a run that ended",
        "l": "한국어",
        "q": "leave",
        "ask_mode": "mode, 1 to 4, or a letter",
        "bad_mode": "the mode must be a number from 1 to {n}, got {answer!r}",
        "ask_plan": "mode, 1 to 3",
        "ask_data": "contest folder (empty: the embedded contest)",
        "ask_name": "experiment name (empty: by mode and folder)",
        "ask_more": "other flags, as --weights_dir DIR --time_budget HOURS (empty: none)",
        "bad_more": "the flags must be words and quoted texts, got {answer!r}",
        "none": "no experiments in {folder} yet",
        "ask_run": "number of the experiment (empty: back)",
        "bad_run": "there is no experiment {answer!r}",
        "page": "page: {path}",
        "no_page": "it has no page yet",
        "done": "ended, {metric} expected {score:.3f}",
        "begun": "not ended",
        "ask_go_on": "go on with it? y or n",
        "ask_images": "image file or folder (empty: back)",
        "ended": "error: the input ended before all questions were answered",
        "interrupted": "interrupted",
        "no_command": "how it was started is not known: start it again by its mode and name",
    },
    "ko": {
        "quick_test": "백본 1개, 폴드 1개: 믿을 수 있는 점수와 제출 파일을 빠르게",
        "full_training": "백본 7개, 폴드 5개, 블렌딩",
        "competition_ready": "위와 같고, 1라운드 모델이 가르치는 2라운드를 더함",
        "debug": "이 컴퓨터와 데이터를 1분 안에 점검, 학습하지 않음",
        "units": ((" h ", "시간 "), (" min", "분"), (" s", "초")),
        "last": "최근 실행: 학습 {fits}개에 {time} ({name})",
        "d": "내 데이터에서 걸릴 시간: 계획만 보고 학습하지 않음",
        "r": "최근 실험: 이어서 실행하거나 결과 페이지 보기",
        "p": "끝난 실험으로 새 이미지 예측",
        "l": "English",
        "q": "나가기",
        "ask_mode": "모드 번호(1~4) 또는 글자",
        "bad_mode": "모드는 1부터 {n}까지의 번호여야 합니다. 입력: {answer!r}",
        "ask_plan": "모드 번호(1~3)",
        "ask_data": "대회 폴더 (빈칸: 내장 대회)",
        "ask_name": "실험 이름 (빈칸: 모드와 폴더 이름으로)",
        "ask_more": "다른 옵션, 예: --weights_dir DIR --time_budget HOURS (빈칸: 없음)",
        "bad_more": "옵션은 단어나 따옴표로 묶은 글이어야 합니다. 입력: {answer!r}",
        "none": "{folder}에 아직 실험이 없습니다",
        "ask_run": "실험 번호 (빈칸: 뒤로)",
        "bad_run": "{answer!r}번 실험이 없습니다",
        "page": "결과 페이지: {path}",
        "no_page": "아직 결과 페이지가 없습니다",
        "done": "완료, {metric} 예상 {score:.3f}",
        "begun": "끝나지 않음",
        "ask_go_on": "이어서 실행할까요? y 또는 n",
        "ask_images": "이미지 파일 또는 폴더 (빈칸: 뒤로)",
        "ended": "오류: 질문이 끝나기 전에 입력이 끝났습니다",
        "interrupted": "중단되었습니다",
        "no_command": "시작 명령을 알 수 없습니다. 같은 모드와 이름으로 다시 시작하십시오",
    },
}


def language():
    """ko or en, as the environment's locale says."""
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG")
                   if os.environ.get(name)), "")
    return "ko" if locale.lower().startswith("ko") else "en"


# ---------------------------------------------------------------- experiments on disk

class Experiment(NamedTuple):
    """A run's folder; final: final_results.json's content, None while it has not ended since it was
    last started."""

    folder: Path
    time: float
    final: dict | None


def experiments(results_dir):
    """The most recent Experiments of a folder, the latest first."""
    folders = [p.parent for p in Path(results_dir).glob("*/events.jsonl")]
    recent = sorted(folders,
                    key=lambda folder: -(folder / "events.jsonl").stat().st_mtime)[:MOST_RECENT]
    return [Experiment(folder, (folder / "events.jsonl").stat().st_mtime, read_final(folder))
            for folder in recent]


def read_final(folder):
    """final_results.json's content; None where it is missing, cut off, of another kind, or older
    than the last start."""
    path = folder / "final_results.json"
    try:
        final = read_json(path)
        started = last_start(folder).get("time")
        is_older = started and path.stat().st_mtime < datetime.fromisoformat(started).timestamp()
        return final if {"mode", "metric", "score",
                         "n_fits"} <= set(final) and not is_older else None
    except (OSError, ValueError):
        return None


def last_start(folder):
    """The event of the run's last start, {} where its log holds none."""
    with open(folder / "events.jsonl", encoding="utf-8") as f:
        return next((event for line in reversed(f.readlines()) if '"event": "start"' in line
                     and (event := event_of(line))), {})


def event_of(line):
    """The event of a line of the log; None where a killed process left half of it."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def started_by(folder):
    """The arguments that a run was last started with, by its log; [] where they are not known."""
    return shlex.split(last_start(folder).get("command", ""))[2:]


# ---------------------------------------------------------------- questions

def ask(question, default=""):
    """One line of input without surrounding space; the default when it is empty."""
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    if not sys.stdin.isatty():
        print(line.strip())
    return line.strip() or default


def ask_path(question):
    """A path as a shell would read it: ~ is the home folder, and a dropped file comes in quotes."""
    answer = ask(question)
    quoted = len(answer) > 1 and answer[0] in "'\"" and answer[-1] == answer[0]
    return os.path.expanduser(answer[1:-1] if quoted else answer)


def ask_choice(question, allowed, say):
    """One of the allowed answers; asks again after anything else."""
    while (answer := ask(question, "1").lower()) not in list(allowed):
        print(say["bad_mode"].format(n=sum(a.isdigit() for a in allowed), answer=answer))
    return answer


def ask_run(recent, say, results_dir):
    """The chosen Experiment of a list that is shown, or None."""
    if not recent:
        print(say["none"].format(folder=results_dir))
        return None
    width = max(len(e.folder.name) for e in recent)
    for number, e in enumerate(recent, 1):
        state = say["done"].format(metric=e.final["metric"],
                                   score=e.final["score"]["expected"]) if e.final else say["begun"]
        print(
            f"  {number}  {e.folder.name:<{width}}  {time.strftime('%Y-%m-%d %H:%M', time.localtime(e.time))}  {state}"
        )
    answer = ask(say["ask_run"])
    if answer.isdigit() and 1 <= int(answer) <= len(recent):
        return recent[int(answer) - 1]
    if answer:
        print(say["bad_run"].format(answer=answer))
    return None


def ask_argv(mode, say):
    """The arguments of grandmaster_train.py that the answers stand for."""
    data_path = ask_path(say["ask_data"])
    name = ask(say["ask_name"])
    argv = ["--mode", mode] + (["--data_path", data_path] if data_path else [])
    return argv + (["--experiment_name", name] if name else []) + ask_more(say)


def ask_more(say):
    """Further words of the command line, none where the input has ended; asks again where a quote
    is not closed."""
    while True:
        try:
            answer = ask(say["ask_more"])
            return [os.path.expanduser(word) for word in shlex.split(answer)]
        except EOFError:
            print()
            return []
        except ValueError:
            print(say["bad_more"].format(answer=answer))


# ---------------------------------------------------------------- what can be chosen

def command(script, argv):
    """Print and run a command of this folder; returns its exit status."""
    print(f"\npython {script.name} {shlex.join(argv)}\n", flush=True)
    # Ctrl-C is the command's, which saves and says so
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run([sys.executable, str(script), *argv], check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def plan(say):
    """What a mode would cost on the person's own data."""
    mode = ask_choice(say["ask_plan"], "123", say)
    return command(TRAIN, [*ask_argv(list(PRESETS)[int(mode) - 1], say), "--dry_run"])


def resume(recent, say, results_dir):
    """Print the path of a run's page; go on with a run that has not ended. None: back to the menu.
    """
    chosen = ask_run(recent, say, results_dir)
    if chosen is None:
        return None
    page = chosen.folder.resolve() / "report.html"
    print(say["page"].format(path=page) if page.exists() else say["no_page"])
    if chosen.final or ask(say["ask_go_on"], "y").lower() != "y":
        return None
    argv = started_by(chosen.folder)
    if not argv:
        print(say["no_command"])
        return None
    return command(TRAIN, argv)


def predict(recent, say, results_dir):
    """Run predict.py on new images; None: back to the menu."""
    chosen = ask_run([e for e in recent if e.final], say, results_dir)
    if chosen is None:
        return None
    images = ask_path(say["ask_images"])
    if not images:
        return None
    return command(PREDICT, [str(chosen.folder), images])


def letters():
    return ("d", "r", *(["p"] if PREDICT.exists() else []), "l", "q")


def show_menu(recent, say):
    """The modes, each with what its last finished run here has cost, and the letters."""
    for number, mode in enumerate(PRESETS, 1):
        print(f"  {number}  {mode:<18} {say[mode]}")
        last = next((e for e in recent if e.final and e.final["mode"] == mode), None)
        if last:
            cost = say["last"].format(fits=last.final["n_fits"], time=time_words(cost_seconds(last),
                                                                                 say),
                                      name=last.folder.name)
            print(f"{'':<24}{cost}")
    for letter in letters():
        print(f"  {letter}  {say[letter]}")


def time_words(seconds, say):
    text = duration(seconds)
    for unit, word in say["units"]:
        text = text.replace(unit, word)
    return text


def cost_seconds(experiment):
    """What all fits of a finished run took; a run that was continued counts as a whole."""
    return max(experiment.final.get("seconds", 0),
               sum(row["seconds"] for row in experiment.final.get("sources", ())))


def choose(tongue, results_dir):
    """Ask until something was run or the person leaves; returns the exit status."""
    while True:
        say = TEXTS[tongue]
        recent = experiments(results_dir)
        show_menu(recent, say)
        answer = ask_choice(say["ask_mode"], ("1", "2", "3", "4", *letters(), *PRESETS, "quit",
                                              "exit"), say)
        status = None
        if answer in ("q", "quit", "exit"):
            return DONE
        if answer == "l":
            tongue = "en" if tongue == "ko" else "ko"
        elif answer == "d":
            status = plan(say)
        elif answer in ("r", "p"):
            status = (resume if answer == "r" else predict)(recent, say, results_dir)
        else:
            mode = list(PRESETS)[int(answer) - 1] if answer.isdigit() else answer
            return command(TRAIN, ask_argv(mode, say))
        if status is not None:
            return status
        print()


def menu(results_dir=BASE.runtime.results_dir):
    """Ask, print the command, run it; returns the exit status."""
    say = TEXTS[language()]
    say_any_text()
    try:
        return choose(language(), results_dir)
    except EOFError:
        print(f"\n{say['ended']}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"\n{say['interrupted']}", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(menu())
