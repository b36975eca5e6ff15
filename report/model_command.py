"""The command `python model.py`: a network's layer table, receptive field and constraints."""

import sys
from dataclasses import asdict

from console.flags import Parser, add_setting_flags, settings_from
from recipe import Network


def main() -> None:
    parser = Parser("Print the network's layer table, receptive-field tally and constraint checks.")
    add_setting_flags(parser, Network)
    args = parser.parse_args()

    from constraints.checks import check
    from constraints.trace import tally_markdown
    from model import build_network
    from report.layer_table import layer_table

    network = build_network(**asdict(settings_from(Network, args)))
    checks = check(network)
    print(layer_table(network))
    print(f"\n{tally_markdown(network)}\n")
    print(*checks, sep="\n")
    if not all(each.passed for each in checks):
        sys.exit(1)
