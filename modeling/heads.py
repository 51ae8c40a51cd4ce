"""Heads: pooled features (B, D) -> logits (B, C)."""
import math

import torch
from torch import nn
from torch.nn import functional as F


class LinearHead(nn.Module):
    """Dropout and a linear classifier: (B, D) -> (B, C).

    On pretrained weights it begins with zeros, so the first steps do not turn features towards
    random directions. From random weights that costs a lot (benchmarks/RESULTS.md).

    is_normed: a batch norm comes before; `fold` puts it into the linear layer after training.
    """

    def __init__(self, n_features, n_classes, drop_rate, is_pretrained=False, is_normed=False):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features) if is_normed else None
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(n_features, n_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        if is_pretrained:
            nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features):
        if self.norm and self.training and len(features) == 1:
            # one row has no statistics: use the running ones
            norm = self.norm
            features = F.batch_norm(features.float(), norm.running_mean, norm.running_var,
                                    norm.weight, norm.bias, eps=norm.eps)
        elif self.norm:
            features = self.norm(features.float())
        return self.linear(self.drop(features))

    @torch.no_grad()
    def fold(self):
        """Put the batch norm into the linear layer: the same function, as it predicts."""
        if not self.norm:
            return
        norm = self.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.linear.bias += self.linear.weight @ (norm.bias - norm.running_mean * scale)
        self.linear.weight *= scale
        self.norm = None

    def with_margin(self, logits, targets):
        """A linear head has no margin."""
        return logits


class ArcFaceHead(nn.Module):
    """s cos(theta), theta the angle to the nearest of a class's centres: (B, D) -> (B, C).

    One centre is ArcFace (arXiv 1801.07698), more are its sub-centre form (Deng et al., ECCV 2020):
    images unlike the rest of their class, mislabelled ones too, gather around a centre of their
    own.
    """

    def __init__(self, n_features, n_classes, drop_rate, n_centers=1, scale=16.0, margin=0.2):
        super().__init__()
        self.n_centers = n_centers
        self.scale = scale
        self.margin = margin
        self.drop = nn.Dropout(drop_rate)
        # the centres of a class side by side
        self.weight = nn.Parameter(torch.empty(n_classes * n_centers, n_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features):
        # in half precision a cosine near 1 no longer tells the angle
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(self.drop(features).float())
            centers = F.normalize(self.weight.float())
            cosine = F.linear(features, centers)
        return self.scale * cosine.unflatten(1, (-1, self.n_centers)).amax(2)

    def with_margin(self, logits, targets):
        """The logits that the loss sees: s cos(theta + m) for the true class.

        In proportion for soft targets t (B, C): s ((1 - t) cos(theta) + t cos(theta + m)). Beyond
        pi - m it goes on falling, as in the paper's code.
        """
        cosine = logits.float() / self.scale
        sine = (1 - cosine.square()).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine <= math.cos(math.pi - self.margin)
        shifted = torch.where(beyond, cosine - self.margin * math.sin(self.margin), shifted)
        return self.scale * ((1 - targets) * cosine + targets * shifted)


def fold_heads(network):
    """Fold every LinearHead in place, as a finished fit stores its network."""
    for module in network.modules():
        if isinstance(module, LinearHead):
            module.fold()


def build_head(model, n_features, n_classes, weights):
    """The head that a ModelConfig asks for. `weights`: the backbone's WeightsSource."""
    if model.head == "linear":
        is_normed = weights.global_pool == "max"
        return LinearHead(n_features, n_classes, model.drop_rate, weights.is_pretrained, is_normed)
    return ArcFaceHead(n_features, n_classes, model.drop_rate, model.arcface_centers)
