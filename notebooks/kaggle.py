"""Train in a Kaggle notebook: paste this into one cell, change the names, save a version.

Accelerator: GPU T4 x2, of which one is used. Attach:

- this repository and the contest,
- a dataset of weights: the folder that `python grandmaster_train.py --mode full_training
  --scale base --fetch_weights weights` fills where there is a network,
- to continue a version that ended too early, that version's output,
- with the internet off, wheels made elsewhere by `pip download -r requirements.txt -d wheels`.
  Then run before this cell: !pip install --no-index --find-links /kaggle/input/wheels
  -r /kaggle/input/grandmaster-train/requirements.txt

The run stops before any training if a backbone's weights are missing; the log's `weights:` lines
say which files it uses.
"""
import shutil
import sys
from pathlib import Path

CODE = "/kaggle/input/grandmaster-train"
CONTEST = "/kaggle/input/CONTEST"
WEIGHTS = "/kaggle/input/WEIGHTS"
PREVIOUS = Path("/kaggle/input/MY-NOTEBOOK/training_results/kaggle")    # may be absent
OUTPUT = Path("/kaggle/working")                                        # /content on Colab
# the budget is in hours, of Kaggle's 9 to 12
FLAGS = ["--mode", "full_training", "--time_budget", "8", "--set", "model.pretrained=require"]

run = OUTPUT / "training_results" / "kaggle"
if PREVIOUS.is_dir() and not run.exists():
    # finished fits are found by their keys and not trained again
    shutil.copytree(PREVIOUS, run)

sys.path.insert(0, CODE)
from grandmaster_train import main

status = main(["--data_path", CONTEST, "--weights_dir", WEIGHTS, "--results_dir", str(run.parent),
               "--experiment_name", run.name, *FLAGS])
if status:
    raise SystemExit(status)

shutil.copy(run / f"submission_{run.name}.csv", OUTPUT / "submission.csv")
