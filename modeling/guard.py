"""Whether a fit learns: its cross-entropy beside that of the best constant answer.

    learning = Learning(objective)
    learning(network, batch)          # as the objective, and counts
    learning.explained()              # 1.0: every answer is right and sure; 0.0: a constant answer

A rate that is too high can leave a network that gives one answer to every image. It does not
recover at the lower rates that follow. Such a fit begins again at a lower rate, see `train.fit`.
"""
import torch
from torch import nn

# a fit begins again at this share of its rate, at most so many times
SLOWER = 0.25
MOST_RESTARTS = 2
# less of the labels' entropy is explained by a collapsed network: it answers every image alike
LEARNT = 0.02
# a slow start explains more from epoch to epoch
RISING = 0.002
# no verdict before so many epochs, steps and this share of a fit: slow starts come right
FEWEST_EPOCHS = 2
FEWEST_STEPS = 40
FEWEST_SHARE = 1 / 6


class Learning(nn.Module):
    """An objective that also sums up what the network's logits explain of the targets.

    All sums are weighted as the loss is, without margin, smoothing or focal exponent.
    """

    def __init__(self, objective):
        super().__init__()
        self.objective = objective
        self.sums = None

    def forward(self, network, batch):
        parts = self.objective(network, batch)
        self.add(parts.logits.detach(), batch)
        return parts

    @torch.no_grad()
    def add(self, logits, batch):
        """Count a batch. Rows of logits that are not finite are left out."""
        entropy, counts = self.objective.surprise(logits, batch.targets)
        is_finite = torch.isfinite(entropy)
        weights = torch.where(is_finite, self.objective.sample_weights(batch), 0)
        total = (weights * torch.where(is_finite, entropy, 0)).sum()
        sums = torch.cat([total[None], weights @ counts])
        self.sums = sums if self.sums is None else self.sums + sums

    def explained(self):
        """1 - cross-entropy / entropy of the classes, since `begin`.

        The entropy of the class shares is the least cross-entropy of a constant answer. 1.0 if
        all rows are of one class or none was counted. Numbers have squared errors in its place.
        """
        if self.sums is None:
            return 1.0
        total, *counts = self.sums.tolist()
        entropy = self.objective.least_surprise(counts)
        return 1 - total / entropy if entropy > 0 else 1.0

    def begin(self, sums=(), device=None):
        """Begin an epoch, or go on with the sums of a stopped one."""
        self.sums = torch.tensor(sums, device=device) if sums else None

    def state(self):
        """Plain values, of which `begin` takes the sums."""
        return {"learning": [] if self.sums is None else self.sums.tolist()}


def knows_nothing(explained):
    """Whether a fit explains next to nothing, and no more than an epoch ago.

    explained: what `Learning` said of each epoch so far.
    """
    if len(explained) < 2:
        return False
    before, now = explained[-2:]
    return now < LEARNT and now < before + RISING


def may_judge(n_epochs_done, n_steps_done, n_epochs, is_pretrained):
    """Whether a fit has trained long enough to tell that it does not learn, and has epochs left.

    From random weights and few images a network may know nothing for most of a fit, at any rate.
    """
    fewest = max(FEWEST_EPOCHS, FEWEST_SHARE * n_epochs)
    is_due = fewest <= n_epochs_done < n_epochs and n_steps_done >= FEWEST_STEPS
    return is_pretrained and is_due
