"""timm's train.py as a script: its loader, optimizer, scheduler, EMA and losses, in its order.

The flags follow the fine-tuning commands on timm's model cards (--opt adamw --opt-eps 1e-6
--warmup-lr 0 --sched-on-updates --clip-grad 1.0 --layer-decay 0.8) and its training examples
(--aa rand-m9-mstd0.5-inc1 --model-ema). The cards' learning rate is for large batches and many
epochs, so it is AdamW's own default, 1e-3, with --warmup-epochs 1. --reprob is 0 with so few
epochs; --scale, --color-jitter, --hflip and --smoothing are its defaults. From random weights: the
same without --layer-decay, weight decay 0.05. As in train.py, a held-out epoch follows each epoch,
and the EMA's last weights predict.
"""
import timm.models
import timm.optim
import timm.scheduler
import timm.utils
import torch
from contract import Images, Peer, autocast, make_model, untargeted
from timm.data import create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy


def loader(rows, job, data, training=False):
    return create_loader(Images(rows), input_size=data["input_size"], batch_size=job.batch_size,
                         is_training=training, auto_augment="rand-m9-mstd0.5-inc1" if training
                         else None, interpolation="random" if training else data["interpolation"],
                         mean=data["mean"], std=data["std"], crop_pct=data["crop_pct"],
                         num_workers=job.workers, device=torch.device("cpu"))


class Training:
    """The state of a run: network, EMA, optimizer, scheduler."""

    def __init__(self, contract):
        self.job = job = contract.job
        self.model = make_model(job, len(contract.classes))
        layered = {"layer_decay": 0.8,
                   "weight_decay": 0.01} if job.weights else {"weight_decay": 0.05}
        self.optimizer = timm.optim.create_optimizer_v2(self.model, opt="adamw", lr=1e-3, eps=1e-6,
                                                        **layered)
        self.scheduler, _ = timm.scheduler.create_scheduler_v2(self.optimizer, sched="cosine",
                                                               num_epochs=job.epochs,
                                                               warmup_epochs=min(1, job.epochs - 1),
                                                               warmup_lr=0.0, step_on_epochs=False,
                                                               updates_per_epoch=contract.n_steps)
        self.ema = timm.utils.ModelEmaV3(self.model, decay=0.9998, use_warmup=True)
        self.loss, self.n_updates = LabelSmoothingCrossEntropy(0.1), 0

    def shaped(self, images):
        return images.contiguous(
            memory_format=torch.channels_last) if self.job.channels_last else images

    def epoch(self, batches, losses):
        self.model.train()
        for images, target in batches:
            with autocast(self.job):
                loss = self.loss(self.model(self.shaped(images)), target)
            self.optimizer.zero_grad()
            loss.backward()
            timm.utils.dispatch_clip_grad(timm.models.model_parameters(self.model), 1.0,
                                          mode="norm")
            self.optimizer.step()
            self.n_updates += 1
            self.ema.update(self.model, step=self.n_updates)
            self.scheduler.step_update(self.n_updates, metric=loss.item())
            losses.update(loss.item(), len(target))

    @torch.inference_mode()
    def logits(self, batches):
        with autocast(self.job):
            return torch.cat([self.ema.module(self.shaped(images)).float() for images,
                              _ in batches])


def main():
    with Peer() as peer:
        job, contract = peer.job, peer.contract
        with peer.timed("train"):
            training = Training(contract)
            data = resolve_data_config({"input_size": (3, job.image_size_px, job.image_size_px)},
                                       model=training.model)
            batches, held_out = loader(contract.train, job, data,
                                       training=True), loader(contract.valid, job, data)
            answers = torch.tensor([label for _, label in contract.valid])
            for epoch in range(job.epochs):
                losses = timm.utils.AverageMeter()
                training.epoch(batches, losses)
                top1, = timm.utils.accuracy(training.logits(held_out), answers)
                print(f"epoch {epoch}: loss {losses.avg:.4f}, held out top-1 {float(top1):.2f}",
                      flush=True)
        with peer.timed("predict"):
            peer.write(training.logits(loader(untargeted(contract.test), job, data)).argmax(1))


if __name__ == "__main__":
    main()
