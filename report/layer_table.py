"""A network layer by layer, as torchinfo counts it."""

import torchinfo
from torch import nn

from recipe import IMAGE_SIZE


def layer_table(network: nn.Module) -> str:
    """torchinfo's table for one image: depth-idx, output shape, parameters, multiply-adds."""
    # torchinfo 1.8 prints its unit's enum name on Python 3.11 and later
    return str(_summary(network)).replace("Units.MEGABYTES", "M")


def count_mult_adds(network: nn.Module) -> int:
    """Number of multiply-adds for one image."""
    return _summary(network).total_mult_adds


def _summary(network: nn.Module) -> torchinfo.ModelStatistics:
    return torchinfo.summary(
        network,
        input_size=(1, 3, IMAGE_SIZE, IMAGE_SIZE),
        row_settings=("depth", "var_names"),
        verbose=0,
        device=next(network.parameters()).device,
    )
