"""A trained network, ready to use.

from inputs.image_files import read_image
from records.trained_net import TrainedNet

net = TrainedNet("results/best.pt")
(probabilities,) = net.probabilities([read_image("results/plots/test_samples/img_02_frog.png")])
print(net.classes[probabilities.argmax()], f"{probabilities.max():.1%}")
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model import Normalise
from recipe import IMAGE_SIZE
from records.checkpoints import load_checkpoint, network_of

BATCH = 500


class TrainedNet(nn.Module):
    """Images uint8 (B, 3, 32, 32) RGB -> logits (B, classes), in evaluation mode.

    Normalisation is inside, with the mean and standard deviation of the training images.

    Args:
        path: a checkpoint written by train.py.

    Raises:
        UserError: it is no checkpoint, or its network is not one of `recipe.NETWORKS`.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        path = Path(path)
        self.checkpoint = load_checkpoint(path)
        self.classes = self.checkpoint.classes
        self.normalise = Normalise(self.checkpoint.mean, self.checkpoint.std)
        self.network = network_of(self.checkpoint, path)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes).

        Raises:
            ValueError: `images` have another shape or type; the message says how to convert them.
        """
        _check(images)
        return self.network(self.normalise(images))

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities (N, classes), float32, of images uint8 (32, 32, 3) RGB.

        `inputs.image_files.read_image` reads such an image from a file of any size.
        """
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return self.logits(batch).softmax(1).numpy()

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes), on the CPU, of any number of images, in batches."""
        device = self.normalise.scale.device
        return torch.cat([self(batch.to(device)).cpu() for batch in images.split(BATCH)])


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images are {kind}; needs a uint8 tensor, pixels from 0 to 255. For floats from 0 to "
            "1: (images * 255).round().to(torch.uint8)"
        )
    if images.ndim != 4 or images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"images of shape {tuple(images.shape)}; needs (B, 3, {IMAGE_SIZE}, {IMAGE_SIZE}) RGB. "
            f"torchvision.transforms.functional.resize(images, [{IMAGE_SIZE}, {IMAGE_SIZE}]) gives "
            "another size, images[None] a batch of one"
        )
