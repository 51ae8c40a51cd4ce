import copy
import math

import numpy as np
import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from config import OptimConfig
from data_loader import Batch
from modeling.heads import ArcFaceHead
from modeling.losses import Distilled, Supervised, class_weights, focal_loss, smooth

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0], [1.0, 1.0, -2.0]])
LABELS = torch.tensor([0, 2, 1, 0])
HARD = F.one_hot(LABELS, 3).float()
FEATURES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
SOFT = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6]])


def test_gamma_0_is_soft_cross_entropy():
    torch.testing.assert_close(focal_loss(LOGITS, SOFT, 0.0).mean(),
                               SoftTargetCrossEntropy()(LOGITS, SOFT))


def test_smoothing_is_that_of_timm():
    ours = focal_loss(LOGITS, smooth(HARD, 0.1), 0.0).mean()
    torch.testing.assert_close(ours, LabelSmoothingCrossEntropy(0.1)(LOGITS, LABELS))


def test_focal_loss_of_two_classes_is_torchvisions_binary_one():
    logit = LOGITS[:, :1]
    # softmax over (x, 0) is sigmoid(x)
    two = torch.cat([logit, torch.zeros_like(logit)], 1)
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
    parts = objective(lambda images: LOGITS, batch)
    reference = F.cross_entropy(LOGITS, LABELS, weight=weights, reduction="sum") / 4
    torch.testing.assert_close(parts.loss, reference)


def test_arcface_adds_the_margin_to_the_true_class_only():
    head = ArcFaceHead(5, 3, 0.0, scale=10.0, margin=0.3)
    plain = head(FEATURES)
    trained = head.with_margin(plain, HARD)
    theta = torch.acos((plain / 10).clamp(-1, 1))
    expected = torch.where(HARD.bool() & (theta <= torch.pi - 0.3), 10 * torch.cos(theta + 0.3),
                           plain)
    unaffected = ~HARD.bool() | (theta <= torch.pi - 0.3)
    torch.testing.assert_close(trained[unaffected], expected[unaffected], atol=1e-4, rtol=1e-4)
    assert (trained <= plain + 1e-5).all()


def test_arcface_takes_soft_targets_between_no_margin_and_full_margin():
    head = ArcFaceHead(5, 3, 0.0)
    plain = head(FEATURES).detach()
    torch.testing.assert_close(head.with_margin(plain, HARD / 2),
                               (plain + head.with_margin(plain, HARD)) / 2)
    soft = head.with_margin(plain, SOFT)
    for i, j in [(0, 0), (1, 2), (3, 2)]:
        cosine = float(plain[i, j]) / head.scale
        with_margin = math.cos(math.acos(cosine) + head.margin)
        expected = head.scale * ((1 - float(SOFT[i, j])) * cosine + float(SOFT[i, j]) * with_margin)
        assert float(soft[i, j]) == pytest.approx(expected, abs=1e-4)


def test_of_several_centres_of_a_class_the_nearest_counts():
    torch.manual_seed(0)
    head = ArcFaceHead(5, 3, 0.0, n_centers=4, scale=10.0)
    centres = head.weight.detach().view(3, 4, 5)
    for row, feature in zip(head(FEATURES).detach(), FEATURES, strict=True):
        for k in range(3):
            nearest = max(float(F.cosine_similarity(feature, centre, dim=0))
                          for centre in centres[k])
            assert float(row[k]) == pytest.approx(10 * nearest, abs=1e-4)
    alone = ArcFaceHead(5, 3, 0.0)
    assert alone.weight.shape == (3, 5)
    torch.testing.assert_close(alone(FEATURES),
                               16 * F.normalize(FEATURES) @ F.normalize(alone.weight).T)


def test_focal_loss_and_smoothing_of_soft_targets():
    for logits, target, ours in zip(LOGITS, SOFT, focal_loss(LOGITS, SOFT, 2.0), strict=True):
        p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum()
        assert float(ours) == pytest.approx(float(-(target.numpy() * (1 - p) ** 2
                                                    * np.log(p)).sum()), rel=1e-5)
    ours = focal_loss(LOGITS, smooth(SOFT, 0.1), 0.0)
    torch.testing.assert_close(ours, F.cross_entropy(LOGITS, SOFT, label_smoothing=0.1,
                                                     reduction="none"))


def test_a_class_weight_multiplies_a_soft_sample_as_a_whole_so_that_its_target_stays_what_is_best():
    weights = torch.tensor([1.0, 2.0, 3.0])
    objective = Supervised(OptimConfig(label_smoothing=0.0), weights)
    batch = Batch(torch.zeros(4, 1), SOFT, torch.tensor([1.0, 0.5, 0.0, 2.0]), torch.arange(4))
    each = [float(w) * sum(float(t * v) for t, v in zip(target, weights, strict=True))
            * float(F.cross_entropy(logits[None], target[None]))
            for w, target, logits in zip(batch.weight, SOFT, LOGITS, strict=True)]
    assert float(objective(lambda images: LOGITS, batch).loss) == pytest.approx(sum(each) / 4,
                                                                                rel=1e-5)
    best = SOFT[:1].log().requires_grad_()
    gradient, = torch.autograd.grad(objective(lambda images: best,
                                              Batch(*(f[:1] for f in batch))).loss, best)
    torch.testing.assert_close(gradient, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_class_weights_share_a_classs_part_between_its_labels_and_its_pseudo_labels():
    labelled, learnt = torch.tensor([90.0, 10.0]), torch.tensor([180.0, 11.0])
    for power in (0.0, 0.5, 1.0):
        part = class_weights(labelled, power) * labelled
        taught = class_weights(labelled, power, learnt) * learnt
        torch.testing.assert_close(taught / taught.sum(), part / part.sum())
        assert float(taught.sum()) == pytest.approx(191)


class Teacher(nn.Module):
    """Answers with its logits, others when it is in training mode."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return -self.logits if self.training else self.logits


def test_distillation_is_the_kl_divergence_of_hinton_et_al_and_teachers_are_frozen():
    teachers, student = [Teacher(LOGITS.flip(0)),
                         Teacher(LOGITS.roll(1, 1))], Teacher(LOGITS.clone()).eval()
    supervised, batch = Supervised(OptimConfig(), torch.ones(3)), Batch(torch.zeros(4, 1), HARD,
                                                                        torch.ones(4),
                                                                        torch.arange(4))
    objective = Distilled(supervised, teachers, alpha=0.3, temperature=2.0)
    soft = sum(F.softmax(t.logits.detach() / 2, 1) for t in teachers) / 2
    reference = 4 * nn.KLDivLoss(reduction="batchmean")(F.log_softmax(LOGITS / 2, 1), soft)
    parts = objective(student, batch)
    torch.testing.assert_close(parts.parts["distilled"], reference)
    torch.testing.assert_close(parts.loss, 0.7 * supervised(student, batch).loss + 0.3 * reference)
    assert [t.logits.requires_grad for t in teachers] == [False, False] and parts.loss.requires_grad


def test_a_student_is_compared_with_its_teachers_without_its_margin():
    head = ArcFaceHead(5, 3, 0.0).eval()
    batch = Batch(FEATURES, HARD, torch.ones(4), torch.arange(4))
    same = Distilled(Supervised(OptimConfig(), torch.ones(3), head.with_margin),
                     [copy.deepcopy(head)], 0.5, 2.0)
    assert float(same(head, batch).parts["distilled"]) == pytest.approx(0, abs=1e-6)
