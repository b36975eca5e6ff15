"""Command-line flags made from dataclasses: each is declared once, as a field.

@dataclass(frozen=True)
class Options:
    epochs: int = setting(25, "passes over the training images", at_least=1)
    out: Path = setting(Path("results"), "folder of the run")

options = parse("Train a network.", Options)       # reads --epochs and --out
"""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from console.errors import UserError, join_command, program

METAVARS = {int: "N", float: "X", Path: "PATH"}


def setting(
    default: Any,
    help: str,
    kind: Callable[[str], Any] | None = None,
    *,
    flag: str | None = None,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
    many: bool = False,
    **bounds: float,
) -> Any:
    """A field of a dataclass that `parse` makes a flag of.

    Args:
        default: with the default False, the flag takes no value and means True.
        kind: int, float, Path, or a function that reads the flag's value and raises ValueError
            with the reason; by default the type of `default`.
        flag: "--lr", if it is not the field's name; a name without dashes is positional.
        choices: the values that are accepted.
        many: whether it takes one or more values.
        bounds: of a number, see `number`.
    """
    if kind is None:
        kind = Path if isinstance(default, Path) else type(default)
    how: dict[str, Any] = {"help": help, "default": default}
    if kind is bool:
        how["action"] = "store_true"
    else:
        read = {int: number(int, **bounds), float: number(float, **bounds), Path: _read_path}
        how["type"] = read.get(kind) or _with_reason(kind)
        how["metavar"] = metavar or METAVARS.get(kind)
        how["choices"] = choices
        how["nargs"] = "+" if many else None
    return field(default=default, metadata={"flag": flag, "how": how})


def parse(
    description: str, *kinds: type, argv: Sequence[str] | None = None, others: bool = False
) -> Any:
    """Reads the command line: an instance of each dataclass in `kinds`, or of the only one.

    `argv` replaces the arguments of this process. A bad flag raises UserError with status 2; with
    `others`, flags that are not in `kinds` are ignored.
    """
    parser = Parser(
        prog=f"python {join_command(program())}",
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    for kind in kinds:
        title = kind.__doc__.partition("\n")[0].rstrip(".")
        _add_flags(parser.add_argument_group(title), kind)
    values = vars(parser.parse_known_args(argv)[0] if others else parser.parse_args(argv))
    made = [_make(kind, values) for kind in kinds]
    return made[0] if len(kinds) == 1 else made


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default, "none" for None, to each help text that does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if "(default: " in action.help or not action.option_strings:
            return action.help
        text = super()._get_help_string(action)
        return text.replace("%(default)s", "none") if action.default is None else text


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str):
        raise UserError(f"{message}; see {self.prog} --help", status=2)


def _add_flags(group: argparse._ArgumentGroup, kind: type) -> None:
    """A flag for each setting of `kind`; a field that is a dataclass gives those of its fields."""
    for each in fields(kind):
        if is_dataclass(each.default):
            _add_flags(group, type(each.default))
        elif each.metadata:
            flag = flag_of(each)
            names = {"dest": each.name} if flag.startswith("-") else {}
            group.add_argument(flag, **names, **each.metadata["how"])


def flag_of(setting: Field) -> str:
    return setting.metadata["flag"] or f"--{setting.name.replace('_', '-')}"


def _make(kind: type, values: dict[str, Any]) -> Any:
    """An instance of the dataclass `kind` with the values of the flags."""
    made = {}
    for each in fields(kind):
        if is_dataclass(each.default):
            made[each.name] = _make(type(each.default), values)
        elif each.metadata:
            made[each.name] = values[each.name]
    return kind(**made)


def as_flags(settings: Any) -> dict[str, Any]:
    """The values of a dataclass of settings by flag: {"--lr": 0.001} and so on."""
    flags = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            flags |= as_flags(value)
        elif each.metadata:
            flags[flag_of(each)] = value
    return flags


def _read_path(text: str) -> Path:
    if not text:  # Path("") is the working directory
        raise argparse.ArgumentTypeError("needs the path of a file or folder, not ''")
    return Path(text)


def _with_reason(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read` as a type for argparse, which hides the message of a ValueError."""

    def parse_value(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_value


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
    limits = [f"{name} {bound}" for name, bound in bounds.items() if math.isfinite(bound)]
    article = "a whole number" if kind is int else "a number"
    wanted = f"{article} {' and '.join(limits)}".strip()

    def parse_number(text: str) -> int | float:
        try:
            value = kind(text)
            fits = at_least <= value <= at_most and above < value < below
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"needs {wanted}, not {text!r}")
        return value

    return parse_number


def read_device(text: str) -> str:
    """The name of a device, which this machine may lack."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9]\d?))?", text):
        raise ValueError(f"use auto, cpu, cuda, cuda:N or mps, not {text!r}")
    return text


def read_workers(text: str) -> str | int:
    """ "auto" or a whole number."""
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"needs a whole number at least 0, or auto, not {text!r}")
    return text if text == "auto" else int(text)


@dataclass(frozen=True)
class Device:
    """Device."""

    device: str = setting(
        "auto", "cpu, cuda, cuda:N or mps; auto takes CUDA, else MPS, else the CPU", read_device
    )
