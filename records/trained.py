"""A trained network as one uses it: pixels in, logits out, all it needs read from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

import artifacts
from data import Normalise
from model import Net


class TrainedNet(nn.Module):
    """Images (B, 3, 32, 32), uint8 or float, 0 to 255 -> logits (B, classes).

    Args:
        path: of a checkpoint that train.py wrote.

    Raises:
        UserError: it is no checkpoint, or one of another network than `Net` is now.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.checkpoint = artifacts.load_checkpoint(path)
        self.classes = self.checkpoint.classes
        self.normalise = Normalise(self.checkpoint.mean, self.checkpoint.std)
        self.net = Net(len(self.classes), self.checkpoint.width)
        artifacts.load_weights(self.net, self.checkpoint, path)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.normalise(images))
