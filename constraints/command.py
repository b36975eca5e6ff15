"""The command `python model.py`: a network's layer table, receptive field and constraints."""

import sys
from collections.abc import Callable
from dataclasses import asdict

from torch import nn

from console.errors import UserError
from console.flags import Parser, a_path, add_setting_flags, settings_from
from constraints.checks import check
from constraints.pictures import draw_network
from constraints.tables import layer_table, tally_table
from constraints.trace import trace
from recipe import Network


def main(build_network: Callable[..., nn.Module]) -> None:
    """Prints what is known of the network that the flags name; status 1 if it breaks a constraint.

    Args:
        build_network: makes a network from the fields of `recipe.Network`.
    """
    parser = Parser("Print the network's layer table, receptive-field tally and constraint checks.")
    add_setting_flags(parser, Network)
    help = (
        "also draw its blocks and its receptive field, network.png and receptive_field.png in DIR"
    )
    parser.add_argument("--save", metavar="DIR", type=a_path, help=help)
    args = parser.parse_args()
    if args.save:
        try:
            args.save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--save {args.save}: {error.strerror}") from error
    network = build_network(**asdict(settings_from(Network, args)))
    traced = trace(network)
    checks = check(traced)
    print(layer_table(network))
    print(f"\n{tally_table(traced)}\n")
    print(*checks, sep="\n")
    if args.save:
        blocks, receptive_field = draw_network(traced)
        blocks.savefig(args.save / "network.png")
        receptive_field.savefig(args.save / "receptive_field.png")
    if not all(each.passed for each in checks):
        sys.exit(1)
