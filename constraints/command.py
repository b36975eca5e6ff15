"""The command `python model.py`: a network's layer table, receptive field and constraints."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from console.files import check_writable
from console.flags import parse, setting
from constraints.checks import check
from constraints.pictures import draw_network
from constraints.tables import layer_table, tally_table
from constraints.trace import trace
from recipe import Network


@dataclass(frozen=True)
class Options:
    """options"""

    save: Path | None = setting(
        None,
        "also draw its blocks and its receptive field, network.png and receptive_field.png in DIR",
        Path,
        metavar="DIR",
    )


def main(build_network: Callable[..., nn.Module]) -> None:
    """Prints what is known of the network that the flags name; status 1 if it breaks a constraint.

    Args:
        build_network: makes a network from the fields of `recipe.Network`.
    """
    about = "Print the network's layer table, receptive-field tally and constraint checks."
    arguments, options = parse(about, Network, Options)
    if options.save:
        check_writable(options.save, "--save")
    network = build_network(**asdict(arguments))
    traced = trace(network)
    checks = check(traced)
    print(layer_table(network))
    print(f"\n{tally_table(traced)}\n")
    print(*checks, sep="\n")
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        blocks, receptive_field = draw_network(traced)
        blocks.savefig(options.save / "network.png")
        receptive_field.savefig(options.save / "receptive_field.png")
    if not all(each.passed for each in checks):
        sys.exit(1)
