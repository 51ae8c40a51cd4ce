"""Trackers fed by the events of events.jsonl; off unless `runtime.tracker` names one.

    with tracker("tensorboard", folder) as log:
        # "r0-vit-s42/fold 0/loss" is 0.7 at step 3
        log("epoch", {"fit": "r0-vit-s42", "fold": 0, "epoch": 3, "loss": 0.7})
"""
import os
import socket
from contextlib import contextmanager

from utils import import_extra

# instead of the person's name and the script's path
MLFLOW_TAGS = {"mlflow.user": "", "mlflow.source.name": "grandmaster_train.py"}


def numbers_of(event, values):
    """(name, value, step) of each number in an event. A fit's numbers are named after it, those of
    its valid images also after them.

    The step is its epoch.
    """
    place = f"{values['fit']}/fold {values['fold']}" if "fit" in values else event
    if event == "valid":
        place = f"{place}/valid"
    for name, value in values.items():
        if isinstance(value, (int, float)) and name not in ("fold", "epoch"):
            yield f"{place}/{name}", value, values.get("epoch", 0)


@contextmanager
def tensorboard(folder):
    writer_of = import_extra("torch.utils.tensorboard", "runtime.tracker=tensorboard").SummaryWriter
    with writer_of(folder / "tensorboard", flush_secs=10) as writer:
        yield writer.add_scalar
    for path in (folder / "tensorboard").glob(f"*.{socket.gethostname()}.*"):
        path.rename(path.with_name(path.name.replace(f".{socket.gethostname()}.", ".")))


@contextmanager
def mlflow(folder):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")      # asked at its import
    client = import_extra("mlflow", "runtime.tracker=mlflow")
    (folder / "mlruns").mkdir(exist_ok=True)
    client.set_tracking_uri(f"sqlite:///{(folder / 'mlruns' / 'mlflow.db').resolve().as_posix()}")
    with client.start_run(run_name=folder.name, tags=MLFLOW_TAGS):
        yield client.log_metric


@contextmanager
def tracker(name, folder):
    """A function of (event, values) that logs into the run's folder; for `none` it does nothing.
    UserError where the package is missing."""
    if name == "none":
        yield lambda event, values: None
        return
    with {"tensorboard": tensorboard, "mlflow": mlflow}[name](folder) as log_number:
        def log(event, values):
            for number in numbers_of(event, values):
                log_number(*number)
        yield log
