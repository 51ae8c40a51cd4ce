"""What a network is asked to do. One contract, so the loop never asks which:
objective(network, batch) -> LossParts.

All losses take soft targets (B, C) and return one value per sample (B,), so weights apply in one
place. Class weights too multiply a whole sample, and so do not change its soft target.

An objective also says what its logits mean: `decoded` (the answers of a network), `apart` (how far
a student is from its teachers) and, for guard.Learning, `surprise` and `least_surprise`.
"""
import contextlib
import math
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


def entropy_of(totals):
    """The least cross-entropy of a constant answer to targets that sum to totals [C]."""
    shares = [value / sum(totals) for value in totals if value > 0]
    return -sum(totals) * sum(share * math.log(share) for share in shares)


class Objective(nn.Module):
    """What those below share; targets that a network answers as they are. is_exact: teachers
    answer in whole precision."""

    is_exact = False

    def sample_weights(self, batch):
        """The weight of each sample in the loss (B,)."""
        return batch.weight

    def weighted(self, per_sample, batch):
        """The loss () of a batch, from losses per sample (B,)."""
        return (per_sample * batch.weight).mean()

    def settle(self, network):
        """Put what the loss takes off its targets into the head of a trained network."""

    def unsettle(self, network):
        """Undo `settle`."""

    def in_units(self, answers):
        """What a network in training answers (n, C), as a settled one would."""
        return answers


class Supervised(Objective):
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
        return batch.weight * (batch.targets @ self.class_weights)

    def weighted(self, per_sample, batch):
        by_class = batch.targets @ self.class_weights
        return (per_sample * batch.weight * by_class).sum() / len(per_sample)

    def forward(self, network, batch):
        logits = network(batch.images)
        targets = smooth(batch.targets, self.label_smoothing)
        per_sample = focal_loss(self.with_margin(logits, batch.targets), targets, self.gamma)
        loss = self.weighted(per_sample, batch)
        return LossParts(loss, logits, {"supervised": loss.detach()})

    def decoded(self, logits, temperature):
        """What logits answer at a temperature, (B, C)."""
        return (logits / temperature).softmax(dim=1)

    def apart(self, logits, answers, temperature):
        """How far logits are from teachers' answers at the temperature, (B,)."""
        return distillation_loss(logits, answers, temperature)

    def surprise(self, logits, targets):
        """(cross-entropy (B,), what `least_surprise` needs the weighted sums of (B, C))."""
        return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1), targets

    def least_surprise(self, totals):
        """The least cross-entropy of a constant answer."""
        return entropy_of(totals)


class EachByItself(Objective):
    """Binary cross-entropy of each class, weighted by sample; targets (B, C) of 0 to 1.

    Label smoothing goes towards the class's share of the images, so mean chances stay right.
    negative_gamma, positive_gamma, shift: of the asymmetric loss (arXiv 2009.14119), which makes
    easy negatives count less; all 0 for plain cross-entropy.
    """

    def __init__(self, label_smoothing, shares, negative_gamma=0.0, positive_gamma=0.0, shift=0.0):
        """shares (C,): of the training images that have each class."""
        super().__init__()
        self.label_smoothing = label_smoothing
        self.negative_gamma = negative_gamma
        self.positive_gamma = positive_gamma
        self.shift = shift
        self.register_buffer("shares", torch.as_tensor(shares, dtype=torch.float32))

    def losses(self, logits, targets):
        """(B,) mean over classes."""
        logits = logits.float()
        if not (self.negative_gamma or self.positive_gamma or self.shift):
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        chance = logits.sigmoid()
        against = (1 - chance + self.shift).clamp(max=1)
        losses = (targets * chance.clamp(min=1e-8).log() * (1 - chance) ** self.positive_gamma
                  + (1 - targets) * against.clamp(min=1e-8).log()
                  * (1 - against) ** self.negative_gamma)
        return -losses.mean(1)

    def forward(self, network, batch):
        logits = network(batch.images)
        targets = batch.targets + self.label_smoothing * (self.shares - batch.targets)
        loss = self.weighted(self.losses(logits, targets), batch)
        return LossParts(loss, logits, {"supervised": loss.detach()})

    def decoded(self, logits, temperature):
        return (logits / temperature).sigmoid()

    def apart(self, logits, answers, temperature):
        """T^2 times the mean over classes of the KL divergence from each answer."""
        logits = logits.float() / temperature
        crossed = F.binary_cross_entropy_with_logits(logits, answers, reduction="none")
        # binary cross-entropy of an answer with itself, which CUDA's autocast refuses
        own = -torch.xlogy(answers, answers) - torch.xlogy(1 - answers, 1 - answers)
        return temperature ** 2 * (crossed - own).mean(1)

    def surprise(self, logits, targets):
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        return losses.sum(1), torch.cat([targets, 1 - targets], dim=1)

    def least_surprise(self, totals):
        n_classes = len(totals) // 2
        return sum(map(entropy_of, zip(totals[:n_classes], totals[n_classes:], strict=True)))


class Numbers(Objective):
    """Smooth L1 loss on standardised targets (B, C), weighted by sample.

    A network in training answers in standard deviations from the mean; `settle` puts both into its
    head, so a finished one answers in the targets' own units.
    """

    is_exact = True

    def __init__(self, mean, deviation):
        """mean, deviation (C,): of the targets that are learnt from."""
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        deviation = torch.as_tensor(deviation, dtype=torch.float32)
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0))

    def standard(self, numbers):
        return (numbers - self.mean) / self.deviation

    def forward(self, network, batch):
        logits = network(batch.images)
        per_sample = self.apart(logits, batch.targets, 1.0)
        loss = self.weighted(per_sample, batch)
        return LossParts(loss, logits, {"supervised": loss.detach()})

    def decoded(self, logits, temperature):
        """Of a settled network."""
        return logits

    def apart(self, logits, answers, temperature):
        return F.smooth_l1_loss(logits.float(), self.standard(answers), reduction="none").mean(1)

    @torch.no_grad()
    def settle(self, network):
        linear = network.head.linear
        mean = self.mean.to(linear.bias.device)
        deviation = self.deviation.to(linear.bias.device)
        linear.weight *= deviation[:, None]
        linear.bias.copy_(linear.bias * deviation + mean)

    @torch.no_grad()
    def unsettle(self, network):
        linear = network.head.linear
        mean = self.mean.to(linear.bias.device)
        deviation = self.deviation.to(linear.bias.device)
        linear.weight /= deviation[:, None]
        linear.bias.copy_((linear.bias - mean) / deviation)

    def in_units(self, answers):
        return answers * self.deviation.cpu().numpy() + self.mean.cpu().numpy()

    def surprise(self, logits, targets):
        """Squared errors, and what makes up the variance."""
        standard = self.standard(targets)
        ones = torch.ones_like(standard[:, :1])
        errors = (logits.float() - standard).square().sum(1)
        return errors, torch.cat([ones, standard, standard.square()], dim=1)

    def least_surprise(self, totals):
        """The least squared error of a constant answer."""
        n_columns = len(totals) // 2
        n = totals[0]
        sums = totals[1:n_columns + 1]
        squares = totals[n_columns + 1:]
        return sum(square - each**2 / n for each, square in zip(sums, squares, strict=True))


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
        whole = torch.autocast(images.device.type, enabled=False)
        with whole if self.supervised.is_exact else contextlib.nullcontext():
            probs = [self.supervised.decoded(teacher(images).float(), self.temperature)
                     for teacher in self.teachers]
        return torch.stack(probs).mean(0)

    def settle(self, network):
        self.supervised.settle(network)

    def unsettle(self, network):
        self.supervised.unsettle(network)

    def in_units(self, answers):
        return self.supervised.in_units(answers)

    def surprise(self, logits, targets):
        return self.supervised.surprise(logits, targets)

    def least_surprise(self, totals):
        return self.supervised.least_surprise(totals)

    def forward(self, network, batch):
        own = self.supervised(network, batch)
        teacher_probs = self.teacher_probs(batch.images)
        per_sample = self.supervised.apart(own.logits, teacher_probs, self.temperature)
        distilled = self.supervised.weighted(per_sample, batch)
        loss = (1 - self.alpha) * own.loss + self.alpha * distilled
        return LossParts(loss, own.logits, own.parts | {"distilled": distilled.detach()})
