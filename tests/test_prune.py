"""--prune says what a finished run can do without, and deletes it only with --yes."""
import shutil

import pytest

from grandmaster_train import main
from predict import main as predict
from running.prune import freed_bytes
from tests.conftest import small_argv


@pytest.fixture(scope="module")
def finished(contest, tmp_path_factory):
    """A results folder whose run was made with two settings in turn."""
    results = tmp_path_factory.mktemp("results")
    assert main(small_argv(contest, results, "seed=1")) == 0
    assert main(small_argv(contest, results)) == 0
    return results


@pytest.fixture
def results(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "results")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
            for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def prune(results, *more):
    return main(["--prune", "run", "--results_dir", str(results), *more])


def test_what_can_go_is_said_and_nothing_is_deleted_without_yes(results, capsys):
    before = files(results)
    assert prune(results) == 0
    said = capsys.readouterr().out
    assert "r0-mobilenetv3_small_050-s1-" in said and "(of earlier settings: " in said
    assert "audit-" in said and "(reduced images and labels: " in said
    assert "can be deleted in " in said and "add --yes to delete" in said
    assert "-s42-" not in said and files(results) == before


def test_with_yes_the_rest_still_predicts_verifies_and_is_found_done(results, contest, capsys):
    assert prune(results, "--yes") == 0
    assert " MB deleted in " in capsys.readouterr().out
    left = [path.parent.name for path in results.rglob("manifest.json")]
    assert not any("-s1-" in name or name.startswith("audit-") for name in left)
    assert main(["--verify", "run", "--results_dir", str(results)]) == 0
    images = contest / "test"
    assert predict([str(results / "run"), str(images), "--out", str(results / "p.csv")]) == 0
    capsys.readouterr()
    assert main(small_argv(contest, results)) == 0
    assert "fold 0: done before" in capsys.readouterr().out
    assert prune(results, "--yes") == 0 and prune(results) == 0
    assert "nothing to delete in " in capsys.readouterr().out


def test_only_a_finished_run_that_nobody_uses_is_pruned(results, capsys):
    assert main(["--prune", "other", "--results_dir", str(results)]) == 2
    assert "--prune must name a finished experiment" in capsys.readouterr().err
    assert not (results / "other").exists()


def test_a_folder_of_the_persons_own_and_links_stay(results):
    (results / "run/audit-mine").mkdir()
    (results / "run/fold_0/r0-link").symlink_to(results, target_is_directory=True)
    assert prune(results, "--yes") == 0
    assert (results / "run/audit-mine").is_dir() and (results / "run/fold_0/r0-link").is_symlink()
    assert (results / "run/final_results.json").is_file()


def test_a_file_of_several_names_is_saved_once_and_only_if_all_its_names_go(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "kept")]
    for folder in folders:
        folder.mkdir()
    for name, links in (("shared", folders[:2]), ("elsewhere", folders[1:])):
        first, *others = (folder / name for folder in links)
        first.write_bytes(b"x" * 100)
        for other in others:
            other.hardlink_to(first)
    (folders[0] / "own").write_bytes(b"x" * 7)
    assert freed_bytes(folders[:2]) == {folders[0]: 107, folders[1]: 0}
