"""Training with a teacher: a trained network whose probabilities are the targets.

Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", 2015. The teacher sees the
same augmented images as the network in training (Beyer et al., "Knowledge distillation: A good
teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from console.errors import UserError
from inputs.image_data import ImageData
from records.trained_net import TrainedNet
from training.trainer import Trainer


def load_teacher(path: Path, data: ImageData, device: torch.device) -> TrainedNet:
    """The network in the checkpoint `path`, on `device`, for training on `data`.

    Raises:
        UserError: it has other classes, or was not trained with the same validation images.
    """
    teacher = TrainedNet(path)
    data.check_classes(teacher.classes, path)
    if data.evaluated == "val" and teacher.checkpoint.data != data.fingerprint:
        raise UserError(
            f"--teacher {path} may have been trained on the validation images; train the teacher "
            "with the same --dataset and --holdout"
        )
    return teacher.to(device, memory_format=torch.channels_last)


def fingerprint(network: nn.Module) -> str:
    """A hash of the weights and buffers of `network`."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:12]


def distillation(teacher: nn.Module) -> Callable[[Trainer, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A loss for `Trainer`: (1 - w) * cross-entropy + w * T^2 * KL(teacher || network).

    w is `Recipe.teacher_weight`. Both distributions of the divergence are softened by
    T = `Recipe.temperature`; T^2 compensates for the 1/T^2 scaling of the gradients (Hinton et
    al., section 2). Labels are not smoothed.
    """

    def distilled_cross_entropy(
        trainer: Trainer, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        weight, temperature = trainer.recipe.teacher_weight, trainer.recipe.temperature
        with torch.no_grad():
            targets = (teacher(images).float() / temperature).log_softmax(1)
        logits = trainer.training_logits(images).float()
        softened = (logits / temperature).log_softmax(1)
        divergence = F.kl_div(softened, targets, reduction="batchmean", log_target=True)
        own = F.cross_entropy(logits, labels)
        return (1 - weight) * own + weight * temperature**2 * divergence, logits

    return distilled_cross_entropy
