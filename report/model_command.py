"""The command `python model.py`: a network's layer table, receptive field and constraints."""

import sys
from dataclasses import asdict

from console.flags import Parser, a_path, add_setting_flags, settings_from
from recipe import Network
from records import names
from records.files import check_writable


def main() -> None:
    parser = Parser("Print the network's layer table, receptive-field tally and constraint checks.")
    add_setting_flags(parser, Network)
    parser.add_argument(
        "--save", metavar="DIR", type=a_path,
        help=f"also draw its blocks and its receptive field, {names.BLOCK_DIAGRAM.name} and "
        f"{names.RECEPTIVE_FIELD.name} in DIR",
    )  # fmt: skip
    args = parser.parse_args()
    if args.save:
        check_writable(args.save, "--save")

    from constraints.checks import check
    from model import build_network
    from report.layer_table import layer_table, tally_table

    network = build_network(**asdict(settings_from(Network, args)))
    checks = check(network)
    print(layer_table(network))
    print(f"\n{tally_table(network)}\n")
    print(*checks, sep="\n")
    if args.save:
        import numpy as np
        from PIL import Image

        from report.network_pictures import draw_network

        # what needs no data; the receptive field over a tile of the published run
        tile = next(iter(names.tiles(names.RESULTS / names.TEST_TILES)), None)
        image = np.asarray(Image.open(tile).convert("RGB")) if tile else None
        draw_network(network, image, args.save)
    if not all(each.passed for each in checks):
        sys.exit(1)
