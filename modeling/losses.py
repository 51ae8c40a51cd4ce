"""What a network is asked to do. One contract: objective(network, batch) -> LossParts; the loop never asks which.

All losses take soft targets (B, C) and return one value per sample (B,), so that weights apply in one place.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class LossParts(NamedTuple):
    """loss (): what to minimise; logits (B, C); parts: named scalars for the log."""

    loss: torch.Tensor
    logits: torch.Tensor
    parts: dict[str, torch.Tensor]


def smooth(targets, label_smoothing):
    """(1 - e) t + e / C (arXiv 1512.00567): as torch's cross_entropy does, for soft targets too."""
    return targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]


def focal_loss(logits, targets, gamma):
    """sum_c t_c (1 - p_c)^gamma (-log p_c) (arXiv 1708.02002), soft targets as in arXiv 2006.04388. (B, C)x2 -> (B,).

    gamma = 0 is cross-entropy.
    """
    log_probs = F.log_softmax(logits.float(), dim=1)
    modulation = (1 - log_probs.exp()).clamp(min=0) ** gamma if gamma else 1.0
    return -(targets * modulation * log_probs).sum(dim=1)


def class_weights(counts, power):
    """(mean count / count) ** power per class, mean 1 over the samples; an empty class counts as one. (C,) -> (C,)"""
    counts = torch.as_tensor(counts, dtype=torch.float32).clamp(min=1)
    weights = (counts.mean() / counts) ** power
    return weights * counts.sum() / (weights * counts).sum()


class Supervised(nn.Module):
    """Focal loss with label smoothing on a batch's targets, weighted by sample and by class."""

    def __init__(self, optim, weights):
        """`optim`: an OptimConfig; `weights` (C,): class weights."""
        super().__init__()
        self.gamma, self.label_smoothing = optim.focal_gamma, optim.label_smoothing
        self.register_buffer("class_weights", torch.as_tensor(weights, dtype=torch.float32))

    def forward(self, network, batch):
        logits = network(batch.images, batch.targets)
        per_sample = focal_loss(logits, smooth(batch.targets, self.label_smoothing), self.gamma)
        weight = batch.weight * (batch.targets @ self.class_weights)
        loss = (per_sample * weight).sum() / len(per_sample)
        return LossParts(loss, logits, {"supervised": loss.detach()})
