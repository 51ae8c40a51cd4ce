"""Heads: pooled features (B, D) -> logits (B, C)."""
import math

import torch
from torch import nn
from torch.nn import functional as F

# ---------------------------------------------------------------- the network

class LinearHead(nn.Module):
    """Dropout and a linear classifier: (B, D) -> (B, C). On pretrained weights it begins with
    zeros: the first steps then turn no feature towards where random weights happen to look. From
    random weights that costs a lot (benchmarks/RESULTS.md).

    is_normed: features go through a batch norm before, which `fold` puts into the linear layer once
    it is trained.
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
        if self.norm and self.training and len(features) == 1:      # which has no statistics
            norm = self.norm
            features = F.batch_norm(features.float(), norm.running_mean, norm.running_var,
                                    norm.weight, norm.bias, eps=norm.eps)
        elif self.norm:
            features = self.norm(features.float())
        return self.linear(self.drop(features))

    @torch.no_grad()
    def fold(self):
        """The same function of features without a batch norm, as it predicts."""
        if self.norm:
            scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
            self.linear.bias += self.linear.weight @ (self.norm.bias - self.norm.running_mean
                                                      * scale)
            self.linear.weight *= scale
            self.norm = None

    def with_margin(self, logits, targets):
        """A linear head asks for no margin."""
        return logits


class ArcFaceHead(nn.Module):
    """s cos(theta), theta the angle to the nearest of a class's centres: (B, D) -> (B, C). One
    centre is ArcFace (arXiv 1801.07698), more are its sub-centre form (Deng et al., ECCV 2020):
    images unlike the rest of their class, mislabelled ones too, gather around a centre of their
    own."""

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
        # cosines near 1 lose the angle in half precision
        with torch.autocast(features.device.type, enabled=False):
            cosine = F.linear(F.normalize(self.drop(features).float()),
                              F.normalize(self.weight.float()))
        return self.scale * cosine.unflatten(1, (-1, self.n_centers)).amax(2)

    def with_margin(self, logits, targets):
        """s cos(theta + m) for the true class, which the loss is taken of; for soft targets t (B,
        C) in proportion: s ((1 - t) cos(theta) + t cos(theta + m)). Beyond pi - m it goes on
        falling, as in the paper's code."""
        cosine = logits.float() / self.scale
        sine = (1 - cosine.square()).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine <= math.cos(math.pi - self.margin)
        shifted = torch.where(beyond, cosine - self.margin * math.sin(self.margin), shifted)
        return self.scale * ((1 - targets) * cosine + targets * shifted)


def fold_heads(network):
    """As a finished fit keeps its network."""
    for module in network.modules():
        if isinstance(module, LinearHead):
            module.fold()


def build_head(model, n_features, n_classes, weights):
    """The head of a ModelConfig."""
    if model.head == "linear":
        return LinearHead(n_features, n_classes, model.drop_rate, weights.is_pretrained,
                          weights.global_pool == "max")
    return ArcFaceHead(n_features, n_classes, model.drop_rate, model.arcface_centers)
