"""Paste into one cell of a Kaggle notebook (accelerator: GPU T4 x2, of which one is used), change
the names, save a version.

It stops where a backbone's weights are not found, before hours are spent; the log's `weights:`
lines say which file is taken.

Attach: this repository as a dataset, the contest, a dataset with weights named <timm model
name>*.safetensors or .pth, and, to go on with a version that ended too early, that version's
output. With the internet off also a dataset of wheels, made elsewhere by `pip download -r
requirements.txt -d wheels`, and before this cell: !pip install --no-index --find-links
/kaggle/input/wheels -r /kaggle/input/grandmaster-train/requirements.txt
"""
import shutil
import sys
from pathlib import Path

CODE, CONTEST, WEIGHTS = (
    "/kaggle/input/grandmaster-train",
    "/kaggle/input/CONTEST",
    "/kaggle/input/WEIGHTS",
)
# of an earlier version; may be absent
PREVIOUS = Path("/kaggle/input/MY-NOTEBOOK/training_results/kaggle")
OUTPUT = Path("/kaggle/working")                                          # /content on Colab
# hours, of 9 to 12
FLAGS = ["--mode", "full_training", "--time_budget", "8", "--set", "model.pretrained=require"]

run = OUTPUT / "training_results" / "kaggle"
if PREVIOUS.is_dir() and not run.exists():
    # finished fits are found by their keys and are not trained again
    shutil.copytree(PREVIOUS, run)
sys.path.insert(0, CODE)
from grandmaster_train import main

status = main(["--data_path", CONTEST, "--weights_dir", WEIGHTS, "--results_dir", str(run.parent),
               "--experiment_name", run.name, *FLAGS])
if status:
    raise SystemExit(status)
shutil.copy(run / f"submission_{run.name}.csv", OUTPUT / "submission.csv")
