"""A network layer by layer: torchinfo's table and the receptive-field tally."""

import torchinfo
from torch import nn

from constraints.trace import trace
from recipe import IMAGE_SIZE
from report.markdown import table


def layer_table(network: nn.Module) -> str:
    """torchinfo's table for one image: depth-idx, output shape, parameters, multiply-adds."""
    # torchinfo 1.8 prints its unit's enum name on Python 3.11 and later
    return str(_summary(network)).replace("Units.MEGABYTES", "M")


def tally_table(network: nn.Module) -> str:
    """The receptive-field tally as a Markdown table, one row per layer."""
    rows = []
    for layer in trace(network).tally:
        motion, before, after = layer.motion, layer.before, layer.after
        pairs = (
            *(motion.kernel, motion.stride, motion.dilation),
            *(before.rf, after.rf, before.jump, after.jump),
        )
        rows.append((layer, *(f"{h}" if h == w else f"{h}x{w}" for h, w in pairs)))
    figures = ("k:", "s:", "d:", "RF in:", "RF out:", "jump in:", "jump out:")
    return table(("layer", *figures), rows)


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
