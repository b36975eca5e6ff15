"""A network layer by layer: torchinfo's table and the receptive-field tally; its size."""

import io
from contextlib import redirect_stdout

import torchinfo
from torch import nn

from console.markdown import table
from constraints.trace import Trace
from recipe import IMAGE_SIZE


def layer_table(network: nn.Module) -> str:
    """torchinfo's table for one image: depth-idx, output shape, parameters, multiply-adds."""
    # torchinfo 1.8 prints its unit's enum name on Python 3.11 and later
    return str(_summary(network)).replace("Units.MEGABYTES", "M")


def tally(traced: Trace) -> list[dict[str, str | int]]:
    """The receptive-field tally, an entry per layer; "3x1" where height and width differ."""
    rows = []
    for layer in traced.tally:
        before, after = layer.before, layer.after
        pairs = {"k": layer.kernel, "s": layer.stride, "d": layer.dilation}
        pairs |= {"RF in": before.rf, "RF out": after.rf}
        pairs |= {"jump in": before.jump, "jump out": after.jump}
        figures = {name: h if h == w else f"{h}x{w}" for name, (h, w) in pairs.items()}
        rows.append({"layer": str(layer), "block": f"C{layer.block}", **figures})
    return rows


def tally_table(traced: Trace) -> str:
    """The receptive-field tally as a Markdown table, one row per layer."""
    block = "block (guessed)" if traced.blocks_are_guessed else "block"
    figures = ("k:", "s:", "d:", "RF in:", "RF out:", "jump in:", "jump out:")
    return table(("layer", block, *figures), (row.values() for row in tally(traced)))


def count_mult_adds(network: nn.Module) -> int:
    """Number of multiply-adds for one image."""
    return _summary(network).total_mult_adds


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _summary(network: nn.Module) -> torchinfo.ModelStatistics:
    with redirect_stdout(io.StringIO()):  # of a network that prints
        return torchinfo.summary(
            network,
            input_size=(1, 3, IMAGE_SIZE, IMAGE_SIZE),
            row_settings=("depth", "var_names"),
            verbose=0,
            device=next(network.parameters()).device,
        )
