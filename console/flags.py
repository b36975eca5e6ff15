"""Command-line flags: the parser, number types, flags made from settings, device flags."""

import argparse
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from console.errors import UserError, program

Settings = TypeVar("Settings")
REPOSITORY = Path(__file__).resolve().parent.parent


def in_repository(name: str) -> Path:
    """The path of a file or folder of this repository, wherever a script is started.

    Within the working directory it is relative, so that what is kept of a run names no folder
    that other machines lack.
    """
    path = REPOSITORY / name
    try:
        return path.relative_to(Path.cwd())
    except (OSError, ValueError):  # the working directory was deleted, or is another
        return path


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default, "none" for None, to each help text that does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        said = "(default: " in action.help
        text = action.help if said else super()._get_help_string(action)
        return text.replace("%(default)s", "none") if action.default is None else text


class Parser(argparse.ArgumentParser):
    """argparse with every default in --help, no abbreviated flags and one-line errors."""

    def __init__(self, description: str):
        super().__init__(
            prog=f"python {shlex.join(program())}",
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help", status=2)


def add_setting_flags(group, kind: type, *only: str) -> None:
    """Adds a flag for each setting in the dataclass `kind`, or for those named in `only`.

    A field that is itself a dataclass of settings gives the flags of its fields.
    """
    for field in fields(kind):
        if only and field.name not in only:
            continue
        if is_dataclass(field.default):
            add_setting_flags(group, type(field.default))
        else:
            choices, bounds = field.metadata["choices"], field.metadata["bounds"]
            if not choices and type(field.default) not in (int, float):
                raise UserError(
                    f"recipe.py: {kind.__name__}.{field.name} cannot have a flag, because its "
                    "default is not a number and it has no choices; give it choices=(...), or use "
                    "0 and 1 for no and yes"
                )
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                default=field.default,
                help=field.metadata["help"],
                choices=choices,
                type=str if choices else number(type(field.default), **bounds),
                metavar=None if choices else "N" if isinstance(field.default, int) else "X",
            )


def settings_from(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """An instance of the dataclass `kind` with the values of the flags in `args`."""
    values = {}
    for field in fields(kind):
        if is_dataclass(field.default):
            values[field.name] = settings_from(type(field.default), args)
        else:
            values[field.name] = getattr(args, field.name)
    return kind(**values)


def as_flags(settings: Any) -> dict[str, Any]:
    """The values of a dataclass of settings by flag: {"--lr": 0.001} and so on."""
    flags = {}
    for name, value in vars(settings).items():
        flags |= as_flags(value) if is_dataclass(value) else {f"--{name.replace('_', '-')}": value}
    return flags


def as_typed(flags: dict[str, Any]) -> str:
    """Flags as words of a command: "--lr 0.001 --width 1.0". A flag that is None is left out."""
    return shlex.join(str(x) for pair in flags.items() if pair[1] is not None for x in pair)


def add_device_flag(group) -> None:
    group.add_argument(
        "--device", type=device_name, default="auto",
        help="cpu, cuda, cuda:N or mps; auto takes CUDA, else MPS, else the CPU",
    )  # fmt: skip


def add_speed_flags(group) -> None:
    """Flags of the device, of worker processes and of torch.compile."""
    add_device_flag(group)
    group.add_argument(
        "--workers", metavar="N", type=number_of_workers, default="auto",
        help="processes that run Albumentations; with 0 it runs between the training steps. auto "
        "is 0 on one or two CPU cores without a GPU. The result is the same",
    )  # fmt: skip
    group.add_argument(
        "--compile", action="store_true",
        help="compile the network with torch.compile, which takes a minute or so; for GPUs",
    )  # fmt: skip


def a_path(text: str) -> Path:
    """An argparse type: a path. "" is refused, because `Path("")` is the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("needs the path of a file or folder, not ''")
    return Path(text)


def device_name(text: str) -> str:
    """An argparse type: the name of a device, which this machine may lack."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9]\d?))?", text):
        raise argparse.ArgumentTypeError(f"use auto, cpu, cuda, cuda:N or mps, not {text!r}")
    return text


def number_of_workers(text: str) -> str | int:
    """An argparse type: "auto" or a whole number."""
    try:
        return text if text == "auto" else number(int, at_least=0)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or auto") from None


def number(
    kind: type,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> Callable[[str], Any]:
    """An argparse type: a finite int or float within bounds.

    `at_least` and `at_most` are allowed values, `above` and `below` are not.
    """
    bounds = {"at least": at_least, "above": above, "below": below, "at most": at_most}
    words = " and ".join(
        f"{name} {bound}" for name, bound in bounds.items() if math.isfinite(bound)
    )
    wanted = f"a {'whole ' if kind is int else ''}number {words}".strip()

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
            fits = at_least <= value <= at_most and above < value < below
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"needs {wanted}, not {text!r}")
        return value

    return parse
