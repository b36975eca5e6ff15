"""Losses: cross-entropy with label smoothing, and with a teacher's probabilities.

A loss takes logits (B, classes), labels int64 (B,) and images uint8 (B, 3, 32, 32), and returns the
mean over the batch. To try another one, return it from `make_loss`. The log shows cross-entropy
without label smoothing, whatever the loss is.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipe import Recipe


def make_loss(
    recipe: Recipe, teacher: nn.Module | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of a training step; `teacher` turns images into logits."""
    if teacher is None:
        return partial(smoothed_cross_entropy, recipe.label_smoothing)
    return partial(distillation_loss, teacher, recipe.teacher_weight, recipe.temperature)


def smoothed_cross_entropy(
    smoothing: float, logits: Tensor, labels: Tensor, _images: Tensor
) -> Tensor:
    """Cross-entropy with `smoothing` of each target spread over all classes."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def distillation_loss(
    teacher: nn.Module,
    weight: float,
    temperature: float,
    logits: Tensor,
    labels: Tensor,
    images: Tensor,
) -> Tensor:
    """(1 - weight) * cross-entropy + weight * T^2 * KL(teacher || network).

    Both distributions of the divergence are softened by T = `temperature`; T^2 compensates for the
    1/T^2 scaling of the gradients (Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural
    Network", 2015, section 2). The teacher sees the same augmented images as the network (Beyer et
    al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022). Labels are
    not smoothed.
    """
    with torch.no_grad():
        targets = (teacher(images).float() / temperature).log_softmax(1)
    softened = (logits / temperature).log_softmax(1)
    divergence = F.kl_div(softened, targets, reduction="batchmean", log_target=True)
    own = F.cross_entropy(logits, labels)
    return (1 - weight) * own + weight * temperature**2 * divergence
