"""Lightning: a LightningModule around timm's network, torchvision's transforms, its Trainer.

Lightning brings the loop and no recipe. The rest follows the documentation it refers to,
torchvision's training references: RandomResizedCrop, a flip, TrivialAugmentWide, label smoothing
0.1, test images resized to 8/7 and cropped; AdamW on a one-cycle schedule stepped per batch,
gradient_clip_val 1.0. bf16-mixed and channels-last if a step is faster.
"""
import lightning
import torch
from contract import Images, Peer, make_model, untargeted
from timm.data import resolve_data_config
from torch.utils.data import DataLoader
from torchvision.transforms import v2


class Classifier(lightning.LightningModule):
    """A timm network with AdamW and a one-cycle schedule."""

    def __init__(self, model, job, n_steps):
        super().__init__()
        self.model, self.job, self.n_steps = model, job, n_steps
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, images):
        return self.model(images.contiguous(memory_format=torch.channels_last)
                          if self.job.channels_last else images)

    def training_step(self, batch, _):
        images, target = batch
        return self.loss(self(images), target)

    def validation_step(self, batch, _):
        images, target = batch
        self.log("valid_accuracy", (self(images).argmax(1) == target).float().mean(), prog_bar=True)

    def predict_step(self, batch, _):
        return self(batch[0]).argmax(1)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3,
                                                    total_steps=self.n_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def transforms(job, mean, std):
    """(of training images, of all others)"""
    size, bilinear = job.image_size_px, v2.InterpolationMode.BILINEAR
    end = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    augmented = [v2.RandomResizedCrop(size, interpolation=bilinear), v2.RandomHorizontalFlip(),
                 v2.TrivialAugmentWide(interpolation=bilinear)]
    plain = [v2.Resize(size * 8 // 7, interpolation=bilinear), v2.CenterCrop(size)]
    return v2.Compose([*augmented, *end]), v2.Compose([*plain, *end])


def loader(rows, transform, job, training=False):
    return DataLoader(Images(rows, transform), job.batch_size, shuffle=training, drop_last=training,
                      num_workers=job.workers, persistent_workers=job.workers > 0)


def main():
    with Peer() as peer:
        job, contract = peer.job, peer.contract
        with peer.timed("train"):
            lightning.seed_everything(job.seed, workers=True)
            model = make_model(job, len(contract.classes))
            data = resolve_data_config({}, model=model)
            augmented, plain = transforms(job, data["mean"], data["std"])
            classifier = Classifier(model, job, job.epochs * contract.n_steps)
            trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=job.epochs,
                                        precision="bf16-mixed" if job.bf16 else "32-true",
                                        gradient_clip_val=1.0, logger=False,
                                        enable_checkpointing=False, enable_progress_bar=False,
                                        default_root_dir=peer.out)
            trainer.fit(classifier, loader(contract.train, augmented, job, training=True),
                        loader(contract.valid, plain, job))
            print(f"held out accuracy {float(trainer.callback_metrics['valid_accuracy']):.4f}",
                  flush=True)
        with peer.timed("predict"):
            peer.write(torch.cat(trainer.predict(classifier, loader(untargeted(contract.test),
                                                                    plain, job))))


if __name__ == "__main__":
    main()
