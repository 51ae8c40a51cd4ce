import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from config import OptimConfig
from data_loader import Batch
from modeling.losses import Supervised, class_weights, focal_loss, smooth
from modeling.network import ArcFaceHead

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0], [1.0, 1.0, -2.0]])
LABELS = torch.tensor([0, 2, 1, 0])
HARD = F.one_hot(LABELS, 3).float()
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6]])


def test_gamma_0_is_soft_cross_entropy():
    torch.testing.assert_close(focal_loss(LOGITS, SOFT, 0.0).mean(), SoftTargetCrossEntropy()(LOGITS, SOFT))


def test_smoothing_is_that_of_timm():
    ours = focal_loss(LOGITS, smooth(HARD, 0.1), 0.0).mean()
    torch.testing.assert_close(ours, LabelSmoothingCrossEntropy(0.1)(LOGITS, LABELS))


def test_focal_loss_of_two_classes_is_torchvisions_binary_one():
    logit = LOGITS[:, :1]
    two = torch.cat([logit, torch.zeros_like(logit)], 1)          # softmax over (x, 0) is sigmoid(x)
    target = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    reference = sigmoid_focal_loss(logit, target, alpha=-1, gamma=2.0)[:, 0]
    torch.testing.assert_close(focal_loss(two, torch.cat([target, 1 - target], 1), 2.0), reference)


def test_class_weights_have_mean_1_over_samples_and_favour_the_rare():
    counts = [90, 9, 1]
    weights = class_weights(counts, 0.5)
    assert float((weights * torch.tensor(counts)).sum() / 100) == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2]
    assert class_weights(counts, 0.0).tolist() == [1, 1, 1]


def test_the_objective_is_weighted_cross_entropy():
    batch = Batch(torch.zeros(4, 1), HARD, torch.ones(4), torch.arange(4))
    weights = torch.tensor([1.0, 2.0, 3.0])
    objective = Supervised(OptimConfig(label_smoothing=0.0), weights)
    parts = objective(lambda images, targets: LOGITS, batch)
    reference = F.cross_entropy(LOGITS, LABELS, weight=weights, reduction="sum") / 4
    torch.testing.assert_close(parts.loss, reference)


def test_arcface_adds_the_margin_to_the_true_class_only():
    head = ArcFaceHead(5, 3, 0.0, scale=10.0, margin=0.3)
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    plain, trained = head(features), head(features, HARD)
    theta = torch.acos((plain / 10).clamp(-1, 1))
    expected = torch.where(HARD.bool() & (theta <= torch.pi - 0.3), 10 * torch.cos(theta + 0.3), plain)
    unaffected = ~HARD.bool() | (theta <= torch.pi - 0.3)
    torch.testing.assert_close(trained[unaffected], expected[unaffected], atol=1e-4, rtol=1e-4)
    assert (trained <= plain + 1e-5).all()


def test_arcface_takes_soft_targets_between_no_margin_and_full_margin():
    head = ArcFaceHead(5, 3, 0.0)
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    half = head(features, HARD / 2)
    torch.testing.assert_close(half, (head(features) + head(features, HARD)) / 2)
