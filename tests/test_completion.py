"""The tab key completes flags and their values, in the shells themselves."""
import shutil
import subprocess

import pytest

import grandmaster_train
from config import PRESETS
from grandmaster_train import main, make_parser


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """What --print-completion prints for each shell: {shell: path}."""
    folder = tmp_path_factory.mktemp("completion")
    paths = {}
    for shell in ("bash", "zsh"):
        paths[shell] = folder / shell
        with pytest.MonkeyPatch.context() as patch, open(paths[shell], "w") as f:
            patch.setattr("sys.stdout", f)
            with pytest.raises(SystemExit) as ended:
                main(["--print-completion", shell])
            assert ended.value.code in (0, None)
    return paths


def completed(script, *words):
    """What bash offers for the last of the words."""
    typed = " ".join(f"'{word}'" for word in ("./grandmaster_train.py", *words))
    asked = (f"source {script['bash']}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; "
             "_shtab_grandmaster_train_py; printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_flags(script):
    assert set(completed(script, "--exp")) == {"--experiment_name"}
    flags = {flag for action in make_parser()._actions for flag in action.option_strings}
    assert set(completed(script, "--")) == {flag for flag in flags if flag.startswith("--")}


def test_bash_completes_values_and_folders(script, tmp_path, monkeypatch):
    assert completed(script, "--mode", "") == list(PRESETS)
    assert completed(script, "--engine", "r") == ["ray"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert completed(script, "--data_path", "mi") == ["mine"]


def test_zsh_gets_a_script_for_the_command(script):
    text = script["zsh"].read_text()
    assert text.startswith("#compdef grandmaster_train.py") and "--fetch_weights" in text
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", script["zsh"]], check=True)


def test_every_flag_whose_values_are_offered_exists():
    assert set(grandmaster_train.CHOICES) <= {action.dest for action in make_parser()._actions}


def test_an_unknown_shell_is_refused_in_one_sentence(capsys):
    assert main(["--print-completion", "cmd"]) == 2
    said = capsys.readouterr().err
    assert "--print-completion must be one of bash, zsh, " in said and "got 'cmd'" in said
