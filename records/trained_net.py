"""A trained network, ready to use.

from inputs.image_files import read_image
from records.trained_net import TrainedNet

net = TrainedNet("results/best.pt")
(probabilities,) = net.probabilities([read_image("results/plots/test_samples/img_02_frog.png")])
print(net.classes[probabilities.argmax()], f"{probabilities.max():.1%}")
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from console.errors import UserError
from model import Normalised
from recipe import IMAGE_SIZE, Recipe
from records.checkpoints import load_checkpoint, load_network


class TrainedNet(Normalised):
    """Images uint8 (B, 3, 32, 32) RGB -> logits (B, classes), in evaluation mode.

    Normalisation is inside, with the mean and standard deviation of the training images.

    Args:
        path: a checkpoint written by train.py.

    Raises:
        UserError: it is no checkpoint, or its network is not there.
    """

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        checkpoint = load_checkpoint(path)
        super().__init__(load_network(checkpoint, path), checkpoint.mean, checkpoint.std)
        self.checkpoint, self.classes = checkpoint, checkpoint.classes
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes); ValueError if `images` are of another shape or type."""
        is_tensor = isinstance(images, Tensor) and images.dtype == torch.uint8
        if not (is_tensor and images.ndim == 4 and images.shape[1:] == (3, IMAGE_SIZE, IMAGE_SIZE)):
            found = f"{getattr(images, 'dtype', '')} {tuple(getattr(images, 'shape', ()))}"
            raise ValueError(
                f"needs a uint8 tensor of shape (B, 3, {IMAGE_SIZE}, {IMAGE_SIZE}), RGB pixels 0 "
                f"to 255, not {type(images).__name__} {found}. From floats 0 to 1: (images * 255)"
                ".round().to(torch.uint8); another size: torchvision.transforms.functional.resize("
                f"images, [{IMAGE_SIZE}, {IMAGE_SIZE}]); a batch of one: images[None]"
            )
        return super().forward(images)

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities (N, classes), float32, of images uint8 (32, 32, 3) RGB.

        `inputs.image_files.read_image` reads such an image from a file of any size.
        """
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return self.logits(batch).softmax(1).numpy()

    @property
    def title(self) -> str:
        """ "ResidualNet, 75 epochs": the network, and how long it was trained."""
        network = self.checkpoint.network.rpartition(":")[2]  # of a user's, the class alone
        return f"{network}, {self.checkpoint.epoch} epochs"

    @property
    def fingerprint(self) -> str:
        """A hash of the network's weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:12]


def load_teacher(
    recipe: Recipe, path: Path | None, data: Any, device: torch.device
) -> tuple[Recipe, TrainedNet | None]:
    """The network in the checkpoint `path`, to teach on `data`, an `inputs.image_data.ImageData`.

    Returns the recipe with the teacher's fingerprint, and the teacher; UserError if it has other
    classes, or was not trained with the same validation images.
    """
    if path is None:
        return recipe, None
    teacher = TrainedNet(path)
    data.check_classes(teacher.classes, path)
    if data.split == "val" and teacher.checkpoint.data != data.fingerprint:
        raise UserError(
            f"--teacher {path} may have been trained on the validation images; train the teacher "
            "with the same --dataset and --holdout"
        )
    print(f"teacher: {path}, {teacher.title}", flush=True)
    recipe = replace(recipe, teacher=teacher.fingerprint)
    return recipe, teacher.to(device, memory_format=torch.channels_last)
