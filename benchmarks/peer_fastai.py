"""fastai's high-level API: ImageDataLoaders, vision_learner on timm's network, fine_tune, TTA.

It follows its vision tutorial: presizing (item_tfms=Resize(460), aug_transforms(size=224), here in
the same proportion), fine_tune with its one frozen epoch counted among the epochs, learn.tta for
the test images. From random weights it uses fit_one_cycle instead, as its Imagenette examples do.
fp32, since its mixed precision is for GPUs only; channels-last if a step is faster.
"""
import pandas as pd
from contract import Peer, weights_kwargs
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import (
    ImageDataLoaders,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)


def labelled_frame(contract):
    """Columns: path, label (as text, so that classes keep their order by name), held out or not."""
    rows = [(path, contract.classes[label], held_out) for split,
            held_out in ((contract.train, False), (contract.valid, True)) for path, label in split]
    return pd.DataFrame(rows, columns=["path", "label", "is_valid"])


def make_learner(contract, out):
    job = contract.job
    loaders = ImageDataLoaders.from_df(labelled_frame(contract), path="/", fn_col="path",
                                       label_col="label", valid_col="is_valid", bs=job.batch_size,
                                       item_tfms=Resize(round(job.image_size_px * 460 / 224)),
                                       batch_tfms=aug_transforms(size=job.image_size_px),
                                       num_workers=job.workers)
    return vision_learner(loaders, job.backbone, metrics=accuracy, path=out,
                          cbs=[ChannelsLast()] if job.channels_last else [], **weights_kwargs(job))


def main():
    with Peer() as peer:
        job, contract = peer.job, peer.contract
        set_seed(job.seed)
        with peer.timed("train"):
            learner = make_learner(contract, peer.out)
            with learner.no_bar():
                if job.weights and job.epochs > 1:
                    learner.fine_tune(job.epochs - 1, freeze_epochs=1)
                else:
                    learner.fit_one_cycle(job.epochs)
        with peer.timed("predict"), learner.no_bar():
            loader = learner.dls.test_dl([path for path, _ in contract.test])
            probs, _ = learner.tta(dl=loader)
            peer.write([contract.classes.index(learner.dls.vocab[k])
                        for k in probs.argmax(1).tolist()])


if __name__ == "__main__":
    main()
