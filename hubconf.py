"""The trained network, for torch.hub.

import torch
net = torch.hub.load("path/to/this/repository", "c1c2c3c4o", source="local")
"""

from os import PathLike

from console.files import REPOSITORY
from records import names
from records.trained_net import TrainedNet

dependencies = ["torch", "numpy", "pandas", "pydantic"]

BEST = REPOSITORY / names.RESULTS.name / names.BEST


def c1c2c3c4o(checkpoint: str | PathLike = BEST) -> TrainedNet:
    """The published network, or that of another checkpoint; see `TrainedNet`."""
    return TrainedNet(checkpoint)
