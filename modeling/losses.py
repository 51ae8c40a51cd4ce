"""What a network is asked to do. One contract, so the loop never asks which:
objective(network, batch) -> LossParts.

All losses take soft targets (B, C) and return one value per sample (B,), so weights apply in one
place. Class weights too multiply a whole sample, and so do not change its soft target.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class LossParts(NamedTuple):
    """loss (): what to minimise; logits (B, C): without a margin; parts: named scalars to log."""

    loss: torch.Tensor
    logits: torch.Tensor
    parts: dict[str, torch.Tensor]


def smooth(targets, label_smoothing):
    """(1 - e) t + e / C (arXiv 1512.00567), as in torch's cross_entropy; for soft targets too."""
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


def focal_loss(logits, targets, gamma):
    """sum_c t_c (1 - p_c)^gamma (-log p_c). Two (B, C) -> (B,). gamma = 0 is cross-entropy.

    arXiv 1708.02002; soft targets as in arXiv 2006.04388.
    """
    log_probs = F.log_softmax(logits.float(), dim=1)
    modulation = (1 - log_probs.exp()).clamp(min=0) ** gamma if gamma else 1.0
    return -(targets * modulation * log_probs).sum(dim=1)


def distillation_loss(logits, teacher_probs, temperature):
    """T^2 KL(teachers || student at T) (arXiv 1503.02531). Two (B, C) -> (B,). teacher_probs: at T
    too.

    T^2 keeps the gradients as large as those of cross-entropy, whatever T is.
    """
    log_probs = F.log_softmax(logits.float() / temperature, dim=1)
    return temperature ** 2 * F.kl_div(log_probs, teacher_probs, reduction="none").sum(dim=1)


def class_weights(counts, power, learnt=None):
    """(mean count / count) ** power per class (C,), with mean 1 over the samples. An empty class
    counts as one sample.

    counts (C,): labelled samples. learnt (C,): labelled and pseudo-labelled samples. A class's part
    in the loss stays as without pseudo-labels, so a class that is easy to pseudo-label becomes no
    likelier.
    """
    counts = torch.as_tensor(counts, dtype=torch.float32).clamp(min=1)
    if learnt is None:
        learnt = counts
    else:
        learnt = torch.as_tensor(learnt, dtype=torch.float32).clamp(min=1)
    weights = (counts.mean() / counts) ** power * counts / learnt
    return weights * learnt.sum() / (weights * learnt).sum()


class Supervised(nn.Module):
    """Focal loss with label smoothing on a batch's targets, weighted by sample and by class."""

    def __init__(self, optim, weights, with_margin=lambda logits, targets: logits):
        """`optim`: an OptimConfig. `weights` (C,): class weights. `with_margin`: the network's
        head's."""
        super().__init__()
        self.gamma = optim.focal_gamma
        self.label_smoothing = optim.label_smoothing
        self.with_margin = with_margin
        self.register_buffer("class_weights", torch.as_tensor(weights, dtype=torch.float32))

    def sample_weights(self, batch):
        """The weight of each sample in the loss (B,)."""
        return batch.weight * (batch.targets @ self.class_weights)

    def weighted(self, per_sample, batch):
        """The loss () of a batch, from losses per sample (B,)."""
        by_class = batch.targets @ self.class_weights
        return (per_sample * batch.weight * by_class).sum() / len(per_sample)

    def forward(self, network, batch):
        logits = network(batch.images)
        targets = smooth(batch.targets, self.label_smoothing)
        per_sample = focal_loss(self.with_margin(logits, batch.targets), targets, self.gamma)
        loss = self.weighted(per_sample, batch)
        return LossParts(loss, logits, {"supervised": loss.detach()})


class Distilled(nn.Module):
    """A Supervised; for the share alpha of the loss, what frozen teachers say of the same augmented
    images.

    The student is compared with its teachers without a margin: they predict without one.
    """

    def __init__(self, supervised, teachers, alpha, temperature):
        """`teachers`: networks of equal weight. `temperature`: see `distillation_loss`."""
        super().__init__()
        self.supervised = supervised
        self.alpha = alpha
        self.temperature = temperature
        self.teachers = nn.ModuleList(teachers).eval().requires_grad_(False)

    def sample_weights(self, batch):
        return self.supervised.sample_weights(batch)

    @torch.no_grad()
    def teacher_probs(self, images):
        """Mean of the teachers' probabilities at the temperature, (B, C)."""
        probs = [(teacher(images).float() / self.temperature).softmax(dim=1)
                 for teacher in self.teachers]
        return torch.stack(probs).mean(0)

    def forward(self, network, batch):
        own = self.supervised(network, batch)
        teacher_probs = self.teacher_probs(batch.images)
        per_sample = distillation_loss(own.logits, teacher_probs, self.temperature)
        distilled = self.supervised.weighted(per_sample, batch)
        loss = (1 - self.alpha) * own.loss + self.alpha * distilled
        return LossParts(loss, own.logits, own.parts | {"distilled": distilled.detach()})
