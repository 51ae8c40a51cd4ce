"""AutoGluon MultiModalPredictor with its defaults.

They are AdamW with layer-wise decay, TrivialAugment and a greedy soup of checkpoints. It is given
the backbone, image size, epochs, batch (its default is 128) and loading processes. The weights come
as a folder in the form of its own dump_model, which its documentation names for local timm weights;
random ones too, since it has no setting for them. The held-out fold is its tuning_data, by which it
chooses checkpoints twice an epoch; its patience is 10 such checks. On a CPU it computes in fp32,
whatever it is told.
"""
import json

import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor
from contract import Peer, make_model


def dump_weights(job, folder):
    """Write a folder that model.timm_image.checkpoint_name may name."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(job, 0)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    known = {name: model.pretrained_cfg[name] for name in ("input_size", "mean", "std",
                                                           "interpolation", "crop_pct")}
    (folder / "config.json").write_text(json.dumps({"architecture": job.backbone, "num_classes": 0,
                                                    "num_features": model.num_features,
                                                    "pretrained_cfg": known}))
    return str(folder)


def hyperparameters(job, folder):
    return {
        "model.names": ["timm_image"],
        "model.timm_image.checkpoint_name": dump_weights(job, folder),
        "model.timm_image.image_size": job.image_size_px,
        "optim.max_epochs": job.epochs,
        "env.batch_size": job.batch_size,
        "env.per_gpu_batch_size": job.batch_size,
        "env.num_workers": job.workers,
        "env.num_workers_inference": job.workers,
        "env.num_gpus": 0,
    }


def labelled_frame(rows, contract):
    return pd.DataFrame({"image": [path for path, _ in rows], "label": [contract.classes[k] for _,
                                                                        k in rows]})


def main():
    with Peer() as peer:
        job, contract = peer.job, peer.contract
        with peer.timed("train"):
            predictor = MultiModalPredictor(label="label", problem_type="multiclass",
                                            path=str(peer.out / "model"))
            predictor.fit(
                labelled_frame(contract.train, contract),
                tuning_data=labelled_frame(contract.valid, contract),
                column_types={"image": "image_path"},
                hyperparameters=hyperparameters(job, peer.out / "weights"),
                seed=job.seed,
            )
        with peer.timed("predict"):
            labels = predictor.predict(pd.DataFrame({"image": [path for path, _ in contract.test]}),
                                       as_pandas=False)
            peer.write([contract.classes.index(str(label)) for label in labels])


if __name__ == "__main__":
    main()
