"""The command `python model.py`: a network's layer table, receptive field and constraints."""

import json as json_format
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from console.files import check_writable
from console.flags import parse, setting
from constraints.assignment import read_assignment
from constraints.checks import Check, check
from constraints.pictures import draw_network
from constraints.tables import count_mult_adds, count_parameters, layer_table, tally, tally_table
from constraints.trace import Trace, trace
from recipe import Network

CLASSES = 10  # of CIFAR-10


@dataclass(frozen=True)
class Options:
    """options"""

    assignment: Path | None = setting(
        None, "check this assignment (default: assignment.toml)", Path, metavar="FILE.toml"
    )
    save: Path | None = setting(
        None,
        "also draw its blocks and its receptive field, network.png and receptive_field.png in DIR",
        Path,
        metavar="DIR",
    )
    json: bool = setting(False, "print one JSON object in place of the tables")


def main(build_network: Callable[..., nn.Module]) -> None:
    """Prints what is known of the network that the flags name; status 1 if it breaks a constraint.

    Args:
        build_network: makes a network from the fields of `recipe.Network`.
    """
    about = "Print the network's layer table, receptive-field tally and constraint checks."
    arguments, options = parse(about, Network, Options)
    if options.save:
        check_writable(options.save, "--save")
    assignment = read_assignment(options.assignment)
    traced = trace(build_network(num_classes=CLASSES, **asdict(arguments)))
    checks = check(traced, assignment)
    if options.json:
        print(as_json(arguments.model, traced, checks))
    else:
        print(layer_table(traced.network))
        print(f"\n{tally_table(traced)}\n")
        print(*checks, sep="\n")
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        blocks, receptive_field = draw_network(traced)
        blocks.savefig(options.save / "network.png")
        receptive_field.savefig(options.save / "receptive_field.png")
    if not all(each.passed for each in checks):
        sys.exit(1)


def as_json(name: str, traced: Trace, checks: list[Check]) -> str:
    values = {
        "network": name,
        "parameters": count_parameters(traced.network),
        "multiply_adds": count_mult_adds(traced.network),
        "blocks_are_guessed": traced.blocks_are_guessed,
        "tally": tally(traced),
        "verdicts": [asdict(each) for each in checks],
    }
    return json_format.dumps(values, indent=2)
